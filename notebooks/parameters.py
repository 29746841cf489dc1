"""The parameters of a notebook: one cell tagged `parameters`, each line `name: type = literal  # help`.

Papermill's scanner drops a default that holds "=" and cuts one that holds "#"; Python's parser does neither.
"""

import ast
import difflib
import json
import re
from dataclasses import dataclass

KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "None": type(None)}
LINE = "name: type = literal  # help"


class ParameterError(Exception):
    """A parameter is unknown, ill-typed or ill-written; the text says what was expected and what came."""


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell."""

    name: str
    kind: str
    default: object
    help: str


def parse(path) -> dict[str, Parameter]:
    """Parameters of the notebook at `path`, in order. ParameterError where the cell is not as it must be."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{path.name} must have one cell tagged 'parameters', has {len(tagged)}")
    source = tagged[0]["source"]
    source = source if isinstance(source, str) else "".join(source)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        text = lines[node.lineno - 1]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ParameterError(f"{path.name}: a parameter line reads '{LINE}', found {text!r}")
        help_text = re.search(r"#\s*(.*)$", lines[node.end_lineno - 1][node.end_col_offset :])
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise ParameterError(f"{path.name}: the default must be a literal, found {text!r}") from None
        name, kind = node.target.id, ast.unparse(node.annotation)
        found[name] = Parameter(name, kind, _checked(name, kind, value, path), help_text.group(1) if help_text else "")
    return found


def close_to(name, known) -> str:
    """`; did you mean …?`, or nothing where no name comes near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5) or [k for k in known if name and name in k]
    return f"; did you mean {near[0]!r}?" if near else ""


def _fits(kind, value):
    """`value` as `kind` wants it, or raise TypeError."""
    for alternative in kind.split("|"):
        base, _, inner = alternative.strip().partition("[")
        if base not in KINDS:
            raise ParameterError(f"type {alternative.strip()!r} is not one of {', '.join(KINDS)}")
        if base == "float" and type(value) is int:
            return float(value)
        if type(value) is KINDS[base]:
            return [_fits(inner.rstrip("]"), item) for item in value] if base == "list" and inner else value
    raise TypeError


def _checked(name, kind, value, path, default=None):
    """`value` as `kind` wants it. Where the default is None, None is allowed, as Papermill has it."""
    try:
        return _fits(f"{kind} | None" if default is None else kind, value)
    except TypeError:
        raise ParameterError(f"parameter {name!r} of {path.name} must be {kind}, got {value!r}") from None


def resolve(given, known, path) -> dict:
    """`given` checked against `known`; all problems in one ParameterError."""
    problems, good = [], {}
    for name, value in given.items():
        try:
            if name not in known:
                raise ParameterError(f"no parameter {name!r} in {path.name}{close_to(name, known)}")
            good[name] = _checked(name, known[name].kind, value, path, known[name].default)
        except ParameterError as error:
            problems.append(str(error))
    if problems:
        raise ParameterError("\n".join([*problems, f"parameters of {path.name}: {', '.join(known)}"]))
    return good


def split(text, known) -> dict:
    """`seeds=2 methods=['equal', 'sam_gs'] name=plain words` -> values; what is no literal is a string.

    A parameter that is a list may also be written `equal,sam_gs`, one that is a bool `true` or `false`.
    """
    values = {}
    for part in re.split(r"\s+(?=[A-Za-z_]\w*=)", text.strip()) if text.strip() else []:
        name, equals, raw = part.partition("=")
        if not equals:
            raise ParameterError(f'parameters are written P="name=value name=value", found {part!r}')
        kind = known[name].kind if name in known else "str"
        values[name] = _literal(raw.strip(), kind)
    return values


def _literal(raw, kind):
    if "bool" in kind and raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        value = raw
    if kind.startswith("list") and not isinstance(value, list) and not raw.startswith("["):
        return [_literal(item.strip(), "") for item in raw.split(",")] if isinstance(value, str) else _as_list(value)
    return raw if kind == "str" and not isinstance(value, str) else value


def _as_list(value):
    return list(value) if isinstance(value, tuple) else [value]


def describe(page, known) -> str:
    """Help for one page: every parameter with its type, the book's value and what it means."""
    items = [(f"{k.name}: {k.kind} = {k.default!r}", k.help) for k in known.values()]
    width = min(40, max(len(left) for left, _ in items))
    return "\n".join([page, *(f"  {left:<{width}}  {right}".rstrip() for left, right in items)])
