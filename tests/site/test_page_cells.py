"""What of a notebook is on its page, and code in 76 columns that is still the same code."""

import ast
import copy
import json
import pathlib
import re
import sys

import pytest
from docutils import nodes

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import code_width  # noqa: E402
import page_cells  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
PRINT = {"output_type": "stream", "name": "stdout", "text": ["method       length\n", "pcgrad         2.65\n"]}
FIGURE = {"output_type": "display_data", "data": {"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}, "metadata": {}}
VALUE = {"output_type": "execute_result", "data": {"text/plain": "0.25"}, "metadata": {}}


def made(*tags, outputs=(PRINT, FIGURE, VALUE)):
    cell = {"cell_type": "code", "metadata": {"tags": [*tags]}, "outputs": copy.deepcopy(list(outputs)), "source": "x"}
    page_cells.on_page(cell)
    return cell["metadata"]["tags"], cell["outputs"]


def test_code_is_left_out_unless_it_teaches():
    assert made("hide-input", "table-of-words") == (["table-of-words", "remove-input"], [FIGURE])
    assert made("teach") == (["teach"], [FIGURE])
    assert made("nbval-check-output", "hide-cell", outputs=[PRINT]) == (["nbval-check-output", "remove-cell"], [])


STARTS = {
    "result": "| method | length |\n|:---|---:|\n| PCGrad | 2.65 |",
    "answer": "<details><summary>",
    "result-code": "```python\nmethod",
}


@pytest.mark.parametrize(("tag", "start"), STARTS.items())
def test_a_result_is_set(tag, start):
    tags, (output, *_) = made(tag)
    assert tags == [tag, "remove-input"] and output["data"]["text/markdown"].startswith(start)


def test_a_print_that_the_kernel_sent_in_parts_is_set_as_one():
    whole = "".join(PRINT["text"]) + "upgrad         1.91\n"
    parts = [PRINT | {"text": [line]} for line in whole.splitlines(keepends=True)]
    (_, (one, *_)), (_, several) = (made("result", outputs=of) for of in ([PRINT | {"text": [whole]}], parts))
    assert several == [one] and several[0]["data"]["text/markdown"].count("|:---") == 1
    _, mixed = made("result", outputs=[parts[0], FIGURE, *parts[1:]])
    assert mixed == [one, FIGURE]


def test_an_empty_head_is_left_out():
    page = nodes.section()
    for words in ("", "method"):
        group, head = nodes.tgroup(cols=1), nodes.thead()
        head += nodes.row("", nodes.entry("", nodes.paragraph(text=words)))
        group += [head, nodes.tbody("", nodes.row("", nodes.entry("", nodes.paragraph(text="1"))))]
        page += nodes.table("", group)
    page_cells.without_empty_heads(None, page)
    assert [head.astext() for head in page.findall(nodes.thead)] == ["method"]
    assert len(list(page.findall(nodes.tbody))) == 2


def test_a_cell_has_one_way_to_show_its_print():
    with pytest.raises(ValueError, match="expected one of the tags .* got answer, result"):
        made("result", "answer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("points  1200\nharmed   106\n", "|  |  |\n|:---|---:|\n| points | 1200 |\n| harmed | 106 |"),
        (
            "rule  one way\na     1  2\nb     3  4",
            "| rule | one way |   |\n|:---|---:|---:|\n| a | 1 | 2 |\n| b | 3 | 4 |",
        ),
        ("shares of 9 sets\na  1\nb  2", "shares of 9 sets\n\n|  |  |\n|:---|---:|\n| a | 1 |\n| b | 2 |"),
        ("shares\nsize  K\na  1\nb  2", "shares\n\n| size | K |\n|:---|---:|\n| a | 1 |\n| b | 2 |"),
        ("where\nD = 3  1 of 9\nD = 5  2 of 9", "where\n\n| | |\n|:---|---:|\n| D = 3 | 1 of 9 |\n| D = 5 | 2 of 9 |"),
        ("paths: 2 of 2\n", "- paths: 2 of 2"),
        ("all a_b * True\nx  1  2\ny  1", "- all a\\_b \\* True\n- x, 1, 2\n- y, 1"),
        ("a  True\nb  False", "|  |  |\n|:---|:---|\n| a | yes |\n| b | no |"),
    ],
)
def test_a_print_becomes_a_table_or_a_list(text, expected):
    assert re.sub(" +", " ", page_cells.as_markdown(text)) == re.sub(" +", " ", expected)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_at_most_two_cells_of_a_page_teach(file):
    tags = [cell["metadata"].get("tags", []) for cell in json.loads(file.read_text("utf-8"))["cells"]]
    assert sum("teach" in one for one in tags) <= 2
    assert not [one for one in tags if page_cells.FOLDS & {*one}], "no bars: a cell is on its page, or it is not"
    assert all("nbval-check-output" in one for one in tags if page_cells.SHOWN & {*one})


# --- code


def tree(code):
    """The syntax tree, up to blanks in strings."""
    found = ast.parse(code)
    for node in ast.walk(found):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = "".join(node.value.split())
    return ast.dump(found)


FILES = [ROOT / "mtl_core" / "methods" / f"{name}.py" for name in ("cagrad", "rotograd", "sam_gs")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_narrow_code_is_the_same_code(file):
    code = file.read_text("utf-8")
    assert max(map(len, code.splitlines())) > code_width.WIDTH, "the example must have something to break"
    narrow = code_width.narrow(code)
    assert tree(narrow) == tree(code)
    assert max(map(len, narrow.splitlines())) <= code_width.WIDTH + 2


def test_comments_docstrings_and_strings_are_broken_at_words():
    words = "one two three four five six seven eight nine ten " * 2
    code = f'def f(x):\n    """Says.\n\n    x  {words}\n    """\n    y = x  # {words}\n'
    code += f'    raise ValueError(\n        "{words}{words}"\n    )'
    lines = code_width.narrow(code).splitlines()
    assert max(map(len, lines)) <= code_width.WIDTH
    assert lines[4].startswith("       ") and "    # one two" in "\n".join(lines) and "    y = x" in lines
    assert [line for line in lines if line.strip().startswith('"one')]


def test_what_is_no_python_stays_as_it_is():
    text = "%magic " + "x " * 60
    assert code_width.narrow(text) == text and code_width.narrow("x = 1") == "x = 1"
