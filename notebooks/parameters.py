"""The parameters of a notebook: one cell tagged `parameters`, each line `name: type = literal  # help`.

The help may state which values mean something: `1 to 41`, `at least 0`, `above 0`, `in (-1, 0]`, `one of a, b, c`; of a
list, each item must be so, and the help may state `2 numbers`, `3 by 2 numbers`, or, of the items of the default,
`2 or more of these`. What is stated is enforced. Numbers are finite, and a list is not empty.

Papermill's scanner drops a default that holds "=" and cuts one that holds "#"; Python's parser does neither.
"""

import ast
import difflib
import json
import math
import re
from dataclasses import dataclass, replace

KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "None": type(None)}
LINE = "name: type = literal  # help"
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # what `literal_eval` meets text with
NUMBER = r"(-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?)"
RANGES = (  # what the help says of numbers, and which ends of the range belong to it
    (rf"(?<![\w.-]){NUMBER} to {NUMBER}\b", "[]"),
    (rf"\bat least {NUMBER}\b", "[)"),
    (rf"\babove {NUMBER}\b", "()"),
    (rf"\bin \[{NUMBER}, {NUMBER}\]", "[]"),
    (rf"\bin \({NUMBER}, {NUMBER}\]", "(]"),
    (rf"\bin \[{NUMBER}, {NUMBER}\)", "[)"),
    (rf"\bin \({NUMBER}, {NUMBER}\)", "()"),
)
SHAPE = r"\b(?:(\d+) by )?(\d+) numbers\b"
COUNT = r"\b(\d+) or more of these\b"
CHOICE = r"\bone of ([\w.-]+(?: [\w.-]+)*(?:, [\w.-]+(?: [\w.-]+)*)*)"


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
    restore = f"put it right, or restore it: git checkout -- notebooks/{path.parent.name}/{path.name}"
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        cells, _ = book["cells"], book["metadata"].get("reads")
        _ = [c[key] for c in cells for key in ("cell_type", "source", "metadata")]
        tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        sources = ["".join(c["source"]) for c in tagged]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ParameterError(f"{path.name} is no notebook ({type(error).__name__}: {error}); {restore}") from None
    if len(sources) != 1:
        raise ParameterError(f"{path.name} must have one cell tagged 'parameters', has {len(sources)}")
    try:
        (source,) = sources
        body, lines, found = ast.parse(source).body, source.splitlines(), {}
    except UNREADABLE as error:
        line = getattr(error, "lineno", None) or 1
        raise ParameterError(f"{path.name}, line {line} of the parameters: {error}; {restore}") from None
    for node in body:
        text = lines[node.lineno - 1]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ParameterError(f"{path.name}: a parameter line reads '{LINE}', found {text!r}")
        help_text = re.search(r"#\s*(.*)$", lines[node.end_lineno - 1][node.end_col_offset :])
        try:
            value = ast.literal_eval(node.value)
        except UNREADABLE:
            raise ParameterError(f"{path.name}: the default must be a literal, found {text!r}") from None
        name, kind = node.target.id, ast.unparse(node.annotation)
        parameter = Parameter(name, kind, value, help_text.group(1) if help_text else "")
        found[name] = replace(parameter, default=_checked(parameter, value, path))
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
            value = float(value) if abs(value) < 1e300 else math.inf
        if type(value) is KINDS[base]:
            return [_fits(inner.rstrip("]"), item) for item in value] if base == "list" and inner else value
    raise TypeError


def _checked(parameter, value, path):
    """`value` as the parameter wants it. Where its default is None, None is allowed, as Papermill has it."""
    kind, got = parameter.kind, repr(value) if len(repr(value)) < 80 else repr(value)[:80] + "…"
    try:
        value = _fits(f"{kind} | None" if parameter.default is None else kind, value)
    except TypeError:
        raise ParameterError(f"parameter {parameter.name!r} of {path.name} must be {kind}, got {got}") from None
    if wrong := _meaningless(value, parameter):
        raise ParameterError(f"parameter {parameter.name!r} of {path.name} must be {wrong}, got {got}")
    return value


def _meaningless(value, parameter):
    """What a value must be and is not, in words; None where it is all right."""
    items, depth = [value], 0
    if isinstance(value, list):
        if not value and parameter.default:
            return "a list that is not empty"
        if shape := re.search(SHAPE, parameter.help):
            sizes = [int(size) for size in shape.groups() if size]
            if not _has_shape(value, sizes):
                return f"a list of {shape[0]}"
        count = re.search(COUNT, parameter.help)
        if count and (len(value) < int(count[1]) or not all(item in parameter.default for item in value)):
            return f"{count[1]} or more of {', '.join(map(str, parameter.default))}"
        while any(isinstance(item, list) for item in items) and depth < 9:
            items = [inner for item in items for inner in (item if isinstance(item, list) else [item])]
            depth += 1
    numbers = [item for item in items if isinstance(item, float | int) and not isinstance(item, bool)]
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        return "finite"
    for stated, low, high, ends in ranges(parameter.help):
        if not all(_within(number, low, high, ends) for number in numbers):
            return stated
    if stated := re.search(CHOICE, parameter.help):
        allowed = stated[1].split(", ")
        if not all(item is None or item in allowed for item in items):
            return f"one of {stated[1]}{close_to(next(str(i) for i in items if i not in allowed), allowed)}"
    try:
        plain = json.loads(json.dumps(value, allow_nan=False)) == value
        str(value).encode()
    except UNREADABLE:
        plain = False
    return None if plain else "plain text, numbers, lists or objects as in JSON"


def ranges(text):
    """(words, low, high, ends) of each range of numbers that a help states; ends as in "[)", high may be infinite."""
    for pattern, ends in RANGES:
        for stated in re.finditer(pattern, text):
            low, high = map(float, (*stated.groups(), "inf")[:2])
            yield stated[0], low, high, ends


def _within(number, low, high, ends):
    above = number >= low if ends[0] == "[" else number > low
    return above and (number <= high if ends[1] == "]" else number < high)


def _has_shape(value, sizes):
    if not sizes:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, list) and len(value) == sizes[0] and all(_has_shape(item, sizes[1:]) for item in value)


def resolve(given, known, path) -> dict:
    """`given` checked against `known`; all problems in one ParameterError."""
    problems, good = [], {}
    for name, value in given.items():
        try:
            if name not in known:
                raise ParameterError(f"no parameter {name!r} in {path.name}{close_to(name, known)}")
            good[name] = _checked(known[name], value, path)
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
    except UNREADABLE:
        value = raw
    if kind.startswith("list") and not isinstance(value, list) and not raw.startswith("["):
        return [_literal(item.strip(), "") for item in raw.split(",")] if isinstance(value, str) else _as_list(value)
    return raw if kind == "str" and not isinstance(value, str) else value


def _as_list(value):
    return list(value) if isinstance(value, tuple) else [value]


def as_text(given, known) -> str:
    """The text that `split` reads as these values; it has no blank but those between two parameters."""
    return " ".join(f"{name}={_as_literal(value, name, known)}" for name, value in given.items())


def _as_literal(value, name, known):
    if isinstance(value, list):
        return f"[{','.join(_as_literal(item, None, known) for item in value)}]"
    if isinstance(value, dict):
        pairs = (":".join(_as_literal(side, None, known) for side in pair) for pair in value.items())
        return f"{{{','.join(pairs)}}}"
    plain = name and isinstance(value, str) and re.fullmatch(r"[\w.-]+", value)
    if plain and split(f"{name}={value}", known)[name] == value:
        return value
    return repr(value).replace(" ", "\\x20")


def describe(page, known) -> str:
    """Help for one page: every parameter with its type, the book's value and what it means."""
    items = [(f"{k.name}: {k.kind} = {k.default!r}", k.help) for k in known.values()]
    width = min(40, max(len(left) for left, _ in items))
    return "\n".join([page, *(f"  {left:<{width}}  {right}".rstrip() for left, right in items)])
