"""The real run of each page of a dense table, rehearsed: the published network on a few made-up images (make nightly).

Minutes a page: this file is named, and not found by itself. `tests/lab/test_dense_tables.py` has the quick rehearsals.
"""

import json

import pytest
from made_up_data import ROOTS
from notebook_tools import SOURCES, load

runner = load(SOURCES / "run.py", "rehearsed_runner")

PAGES = {  # page -> its set, and what is given beside
    "recon_cityscapes": ("cityscapes", "methods=equal"),
    "recon_nyuv2": ("nyuv2", "methods=equal network=mtan"),
    "recon_pascal_context": ("pascal", "methods=equal"),
    "rotograd_nyuv2": ("nyuv2", "methods=rotograd"),
    "sam_gs_cityscapes_nyuv2": ("nyuv2", "methods=sam_gs data=nyuv2"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_on_a_root_of_the_user(page, tmp_path, monkeypatch):
    data, given = PAGES[page]
    ROOTS[data](tmp_path / "data")
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(runner, "PAGES", tmp_path / "pages")
    text = f"profile=paper data_root={tmp_path / 'data'} epochs=1 {given}"
    assert runner.main(["--page", page, "--parameters", text]) == 0
    (made,) = (tmp_path / "pages").glob(f"*/{page}.ipynb")
    shown = json.dumps(json.loads(made.read_text(encoding="utf-8"))["cells"], ensure_ascii=False)
    assert "a part of " in shown, "it says what it ran on"
