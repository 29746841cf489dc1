"""The form of the source notebooks and the comparison that nbval makes."""

import ast
import json
import re

import nbformat
import pytest
from notebook_tools import ROOT, SOURCES, comparison, notebook, page, parameters, refresh

NOTEBOOKS = sorted(SOURCES.glob("*/*.ipynb"))


# --- the form of the sources


def vacuous(cells):
    """Why nbval would pass without comparing anything, or where outputs stand that it does not compare."""
    checked = [c for c in cells if "nbval-check-output" in c["metadata"].get("tags", [])]
    if not checked:
        return "no cell is tagged nbval-check-output"
    for cell in checked:
        if not cell["outputs"] or cell["execution_count"] is None:
            return f"a checked cell without stored output or count: {cell['id']}"
        texts = [o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell["outputs"]]
        if not any(comparison.NUMBER.search(re.sub(r"<[^>]*>", "", "".join(text))) for text in texts):
            return f"a checked cell that prints no number: {cell['id']}"
    for cell in cells:
        if cell["cell_type"] == "code" and cell not in checked and (cell["outputs"] or cell["execution_count"]):
            return f"output outside checked cells: {cell['id']}"
    return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_of_a_page_have_a_range(path):
    """A whole number below zero means nothing on any page."""
    known = parameters.parse(path)
    for name in [name for name, parameter in known.items() if type(parameter.default) is int]:
        with pytest.raises(parameters.ParameterError, match=name):
            parameters.resolve({name: "-1"}, known, path)


SHOWS = {"markdown_table", "Markdown", "HTML"}  # what a reader sees only as the last value of a cell, or by display()


def unseen(source):
    """Values that would be shown if they stood last in their cell, and do not: lines of `source`."""
    tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    named = [(node, getattr(node.value.func, "attr", getattr(node.value.func, "id", None))) for node in calls]
    return [ast.unparse(node) for node, name in named if name in SHOWS and node is not tree.body[-1]]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_source_form(path):
    text = path.read_text(encoding="utf-8")
    book = nbformat.read(path, 4)
    assert vacuous(json.loads(text)["cells"]) is None
    assert nbformat.writes(refresh.normal_form(book)).strip() == text.strip(), "run tests/refresh_notebooks.py"
    assert parameters.parse(path)
    for cell in book.cells:
        comparison.tolerance(cell.metadata.get("tags", []))
        assert cell.cell_type != "code" or unseen(cell.source) == []
    ids = [cell["id"] for cell in book.cells]
    assert len(set(ids)) == len(ids)


def test_values_that_nobody_sees_are_found():
    table = "figures.markdown_table(head, lines)"
    assert unseen(f"%matplotlib inline\nif lines:\n    {table}\n") == [table]
    assert unseen(f"{table}\nx = 1") == [table]
    assert unseen(f"if lines:\n    display({table})\n{table}") == []


def test_vacuous_notebooks_are_found():
    good = {
        "cell_type": "code",
        "id": "a",
        "metadata": {"tags": ["nbval-check-output"]},
        "execution_count": 1,
    }
    good["outputs"] = [{"text": "gap 0.5"}]
    plain = {"cell_type": "code", "id": "b", "metadata": {}, "execution_count": None, "outputs": []}
    assert vacuous([good, plain]) is None
    assert "no cell" in vacuous([plain])
    assert "without stored" in vacuous([good | {"outputs": []}])
    assert "without stored" in vacuous([good | {"execution_count": None}])
    for text in ("done", "<Figure size 640x480 with 1 Axes>", "<IPython.core.display.Markdown object>"):
        assert "no number" in vacuous([good | {"outputs": [{"data": {"text/plain": text}, "execution_count": 1}]}])
        assert "no number" in vacuous([good | {"outputs": [{"text": text}]}])
    assert "outside" in vacuous([good, plain | {"outputs": [{"text": "3"}]}])


def test_each_notebook_is_a_page_in_the_contents_below_a_caption_of_its_folder():
    contents = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"file: notebooks/(\S+)", contents)
    assert sorted(listed) == sorted(path.relative_to(SOURCES).with_suffix("").as_posix() for path in NOTEBOOKS)
    assert len({path.stem for path in NOTEBOOKS}) == len(NOTEBOOKS), "make run PAGE=… names a page by its last part"
    for part in re.split(r"(?m)^  - caption: ", contents)[1:]:
        folders = {name.partition("/")[0] for name in re.findall(r"file: notebooks/(\S+)", part)}
        assert len(folders) <= 1, f"{part.splitlines()[0]}: {folders}"


# --- the comparison


@pytest.mark.parametrize(
    "reference, new, limit",
    [
        ("gap 0.5", "gap 0.5000001", None),
        ("gap   0.5  of 3", "gap 0.5 of 3", None),
        ("gap 0.50", "gap 0.52", 0.05),
        ("gap nan", "gap nan", 0.05),
        ("zero 0.00", "zero -0.00", 0.05),
        ("−0.50", "-0.50", 0.05),
        ("1e-3 and 25 %", "0.00101 and 25 %", 0.05),
    ],
)
def test_equal_within_tolerance(reference, new, limit):
    limits = comparison.tolerance([f"tolerance-{limit}"] if limit else [])
    assert comparison.Text(reference, limits) == comparison.Text(new, limits)


@pytest.mark.parametrize(
    "reference, new",
    [
        ("gap 0.50", "gap 0.58"),
        ("gap 0.02", "gap -0.02"),  # a flipped sign, though within the absolute tolerance
        ("gap 0.50", "gap nan"),
        ("gap nan", "gap 0.50"),
        ("gap 0.50", "gap inf"),
        ("a 0.5 b 0.6", "a 0.5 b"),
        ("a 0.5", "a 0.5 0.5"),
        ("A below B: True", "A below B: False"),
        ("layer1.0.conv1", "layer1.0.conv2"),
        ("line 1\nline 2", "line 1 line 2"),
    ],
)
def test_differs_in_spite_of_tolerance(reference, new):
    limits = comparison.tolerance(["tolerance-0.05"])
    assert comparison.Text(reference, limits) != comparison.Text(new, limits)


def test_digits_of_a_name_are_no_number():
    limits = comparison.tolerance(["tolerance-0.9"])
    assert comparison.Text("worst layer1.0.conv1", limits) != comparison.Text("worst layer1.0.conv2", limits)
    assert comparison.Text("worst 1", limits) == comparison.Text("worst 2", limits)


@pytest.mark.parametrize(("new", "same"), [(55, True), (61, True), (54, False), (62, False)])
def test_counts_have_a_tolerance_in_counts(new, same):
    limits = comparison.tolerance(["within-3"])
    assert comparison.same_text("58 of 100", f"{new} of 100", *limits) is same
    assert comparison.same_text("0 of 100", "3 of 100", *limits)


def test_default_tolerance_is_tight():
    limits = comparison.tolerance(["hide-input"])
    assert comparison.Text("0.5000", limits) != comparison.Text("0.5001", limits)


@pytest.mark.parametrize(
    "tags",
    [
        ["tolerance-loose"],
        ["tolerance"],
        ["tolerance-0.1", "tolerance-0.2"],
        ["within-3", "tolerance-0.1"],
        ["within--3"],
    ],
)
def test_ill_stated_tolerance(tags):
    with pytest.raises(ValueError, match="tolerance"):
        comparison.tolerance(tags)


# --- the normal form


def test_normal_form_keeps_checked_text_only(tmp_path):
    book = nbformat.read(notebook(tmp_path / "x.ipynb"), 4)
    out = nbformat.v4.new_output("execute_result", {"text/plain": "1", "image/png": "AA"}, execution_count=7)
    for cell, tags in ((book.cells[1], ["parameters"]), (book.cells[2], ["nbval-check-output"])):
        cell.metadata = nbformat.from_dict({"tags": tags, "collapsed": True})
        cell.outputs, cell.execution_count = [out], 7
    once = nbformat.writes(refresh.normal_form(book))
    assert book.cells[1].outputs == [] and book.cells[1].execution_count is None
    assert book.cells[2].execution_count == 1 and list(book.cells[2].outputs[0]["data"]) == ["text/plain"]
    assert "collapsed" not in once
    assert nbformat.writes(refresh.normal_form(nbformat.reads(once, 4))) == once


# --- pages that `make book` has executed


def test_a_current_page_answers_in_place_of_a_kernel_and_another_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    monkeypatch.delenv("MTL_RUNS", raising=False)
    monkeypatch.syspath_prepend(SOURCES)
    for folder in ("notebooks/part", "book/notebooks/part"):
        (tmp_path / folder).mkdir(parents=True)
    path = notebook(tmp_path / "notebooks" / "part" / "x.ipynb")
    assert comparison.current_page(path) is None, "never executed"
    executed = nbformat.read(path, 4)
    executed.cells[-1].outputs = [nbformat.v4.new_output("stream", text="3\n")]
    defaults = {name: parameter.default for name, parameter in parameters.parse(path).items()}
    executed.metadata["mtl_run"] = {"fingerprint": page.fingerprint(path, defaults, tmp_path)}
    nbformat.write(executed, tmp_path / "book" / "notebooks" / "part" / "x.ipynb")
    kernel = comparison.PageAsKernel(comparison.current_page(path))
    for cell, gives in zip(executed.cells[1:], ([], ["3\n"]), strict=True):
        asked = kernel.execute_cell_input(cell.source, allow_stdin=False)
        replies = []
        while (message := kernel.get_message("iopub"))["msg_type"] != "status":
            replies.append(message["content"]["text"])
        assert replies == gives and message["parent_header"]["msg_id"] == asked
    monkeypatch.setenv("MTL_RUNS", str(tmp_path))
    assert comparison.current_page(path) is None, "a store of its own asks for an execution"
    monkeypatch.delenv("MTL_RUNS")
    notebook(path, work="print(4 * seeds)")
    assert comparison.current_page(path) is None, "its source has changed"
