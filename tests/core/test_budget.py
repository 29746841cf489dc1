"""The packages stay as small as they are meant to be: lines of code without blanks, comments and docstrings."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of_code(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, OWNERS) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_what_counts():
    docs, body = (
        '"""Says what.\n\nAt length."""\n\n',
        '    """Doubles."""\n    # how\n    return (\n        2\n        * x)\n',
    )
    source = docs + "def f(x):  # why\n" + body
    assert lines_of_code(source) == 4


BUDGETS = [("mtl_core", ("models", "data"), 2_400), ("mtl_lab", ("experiments",), 4_000)]


@pytest.mark.parametrize("package, aside, most", BUDGETS)
def test_a_package_keeps_its_budget(package, aside, most):
    """What everything shares is counted together; networks, data sets and experiments stand alone, one file each."""
    files = [f for f in (ROOT / package).rglob("*.py") if f.relative_to(ROOT / package).parts[0] not in aside]
    assert len(files) > 30 and sum(lines_of_code(f.read_text(encoding="utf-8")) for f in files) <= most


@pytest.mark.parametrize("folder", ["mtl_core/models", "mtl_core/data", "mtl_lab/experiments"])
def test_a_network_a_data_set_or_an_experiment_is_read_in_one_sitting(folder):
    lines = {f.name: lines_of_code(f.read_text(encoding="utf-8")) for f in (ROOT / folder).glob("*.py")}
    assert len(lines) > 10 and not {name: n for name, n in lines.items() if n > 200}
