"""The page `Add an experiment`, followed to the letter in a copy of the packages: seven files and nothing else."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from notebook_tools import comparison, refresh

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "add_an_experiment.md"
STEP = r"(?ms)^## (\d)\. [^\n]*\n.*?^`(\S+)`\n.*?^```\w+\n(.*?)^```$"

FOLLOW = """
import contextlib, io, json, sys
from pathlib import Path
import numpy as np
sys.path[:0] = ["notebooks", "tests/core"]
import run
import test_two_slopes
from mtl_lab import experiments
from mtl_lab.protocol import completeness
from mtl_lab.protocol.verdict import judge

for name in [name for name in dir(test_two_slopes) if name.startswith("test_")]:
    getattr(test_two_slopes, name)()

page = run.registry()["two_slopes"]
cells = [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]
names, printed = {}, io.StringIO()
with contextlib.redirect_stdout(printed):
    for cell in cells:
        exec("".join(cell["source"]), names)

table = experiments.TABLES["two_slopes"]("tiny")
rows = {row.name: {"choice": table.configurations(row)[0], "tried": []} for row in table.searched()}
search = {"table": table.name, "margin": table.margin, "rate": list(table.rates()), "rows": rows}
random, factors, records = np.random.default_rng(0), {"broken": 1.5, "pcgrad": 0.8}, []
for row, runs in completeness.expected_runs(table, search).items():
    for config in runs:
        error = factors.get(row, 1) + 0.01 * random.standard_normal()
        tasks = ["first", "second"] if config.tasks is None else [["first", "second"][config.tasks[0]]]
        records.append({"row": row, "identity": config.identity, "config": json.loads(config.canonical()),
                        "diverged": None, "final": {"test": {task: {"MAE (units)": error} for task in tasks}}})
verdict = judge(table, records, search)
print(json.dumps({
    "page": page.relative_to(Path.cwd()).as_posix(), "parameters": list(run.parse(page)), "printed": printed.getvalue(),
    "epochs": len(names["record"]["epochs"]), "steps": names["record"]["steps"],
    "synthetic": names["record"]["source"]["synthetic"], "complaints": verdict.complaints(),
    "outcomes": {name: row.outcome for name, row in verdict.rows.items()},
}))
"""


@pytest.fixture(scope="module")
def files():
    """File -> its block on the page, in the order of the steps."""
    steps = re.findall(STEP, PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    return {name: block for _, name, block in steps}


@pytest.fixture(scope="module")
def copy(files, tmp_path_factory):
    """The packages, the runner of notebooks, the contents and the notices, with what the page adds."""
    root = tmp_path_factory.mktemp("copy")
    for package in ("mtl_core", "mtl_lab"):
        shutil.copytree(ROOT / package, root / package)  # with compiled files, whose sources keep their times
    for file in [*(ROOT / "notebooks").glob("*.py"), ROOT / "book" / "_toc.yml", ROOT / "NOTICES"]:
        target = root / file.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(file, target)
    for name, block in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if name == "book/_toc.yml":
            start = re.search(r"(?s).*\n      - file: notebooks/ideas/[^\n]*\n", old).end()
            path.write_text(old[:start] + block + old[start:], encoding="utf-8")
        else:
            path.write_text(old + block, encoding="utf-8")
    return root


def test_it_takes_seven_files(files):
    assert len(files) == 7
    assert [name for name in files if (ROOT / name).exists()] == ["book/_toc.yml", "NOTICES"], "the others are new"


def test_contents_notices_and_notebook_are_in_form(files, copy):
    parts = yaml.safe_load((copy / "book/_toc.yml").read_text(encoding="utf-8"))["parts"]
    (ideas,) = [part["chapters"] for part in parts if part["caption"] == "Ideas"]
    (notebook,) = [name for name in files if name.endswith(".ipynb")]
    assert {"file": notebook.removesuffix(".ipynb")} in ideas
    assert "Synthetic, made by this project" in (copy / "NOTICES").read_text(encoding="utf-8")
    book = nbformat.reads(files[notebook], 4)
    assert nbformat.writes(refresh.normal_form(book)).strip() == files[notebook].strip()


def test_the_page_shows_the_cells_of_its_notebook(files):
    (notebook,) = [name for name in files if name.endswith(".ipynb")]
    cells = ["".join(cell["source"]) for cell in json.loads(files[notebook])["cells"]]
    assert re.findall(r"(?ms)^````\w+\n(.*?)\n````$", PAGE.read_text(encoding="utf-8")) == cells


def test_the_table_trains_is_judged_and_has_its_page(files, copy):
    environment = {**os.environ, "PYTHONPATH": str(copy), "MTL_RUNS": str(copy / "runs"), "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", FOLLOW], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["page"] == "notebooks/ideas/two_slopes.ipynb" and said["parameters"] == ["row", "seed"]
    assert said["epochs"] == 1 and said["steps"] == 8 and said["synthetic"] is True
    cells = json.loads(files[said["page"]])["cells"]
    (checked,) = [cell for cell in cells if "nbval-check-output" in cell["metadata"].get("tags", [])]
    stored = "".join(checked["outputs"][0]["text"])
    assert comparison.same_text(stored, said["printed"], *comparison.tolerance(checked["metadata"]["tags"]))
    assert said["complaints"] == []
    assert said["outcomes"]["pcgrad"] == "better" and said["outcomes"]["broken"] == "worse"
    assert said["outcomes"]["single first"] == "single-task"
