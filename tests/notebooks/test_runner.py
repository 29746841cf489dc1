"""Parameters of a notebook, and the runner that turns notebooks into pages."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from notebook_tools import SOURCES, load, notebook, page, parameters

# --- parameters


def test_parameters_are_read(tmp_path):
    known = parameters.parse(notebook(tmp_path / "x.ipynb"))
    assert list(known) == ["methods", "seeds", "rate", "title", "fresh", "limit", "epochs"]
    assert known["title"].default == "a = b # c" and known["title"].help == "shown above"
    assert known["rate"].help == '"=" and # inside'


@pytest.mark.parametrize(
    "text, values",
    [
        ("", {}),
        ("seeds=2  rate=1", {"seeds": 2, "rate": 1.0}),
        ("methods=['sam_gs', 'equal'] seeds=2", {"methods": ["sam_gs", "equal"], "seeds": 2}),
        ("methods=sam_gs,equal", {"methods": ["sam_gs", "equal"]}),
        ("methods=sam_gs", {"methods": ["sam_gs"]}),
        ("title=plain words fresh=true limit=3", {"title": "plain words", "fresh": True, "limit": 3}),
        ("title=7", {"title": "7"}),
        ("epochs=None limit=None", {"epochs": None, "limit": None}),
    ],
)
def test_parameters_are_parsed(tmp_path, text, values):
    path = notebook(tmp_path / "x.ipynb")
    known = parameters.parse(path)
    assert parameters.resolve(parameters.split(text, known), known, path) == values


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed=2", "no parameter 'seed' in x.ipynb; did you mean 'seeds'"),
        ("seeds=1.5", "'seeds' of x.ipynb must be int, got 1.5"),
        ("seeds=two", "must be int, got 'two'"),
        ("seeds=True", "must be int, got True"),
        ("fresh=1", "must be bool, got 1"),
        ("methods=[1]", "must be list"),
        ("seeds", "name=value"),
        ("seeds=None", "must be int, got None"),
        ("epochs=1.5", "must be int, got 1.5"),
    ],
)
def test_wrong_parameters(tmp_path, text, message):
    path = notebook(tmp_path / "x.ipynb")
    known = parameters.parse(path)
    with pytest.raises(parameters.ParameterError) as caught:
        parameters.resolve(parameters.split(text, known), known, path)
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["seeds = 1", "a: int = 1 + x", "import os", "a: int", "a: int = 'x'", "a: map = 1"])
def test_ill_written_parameter_cells(tmp_path, line):
    with pytest.raises(parameters.ParameterError, match="x.ipynb|is not one of"):
        parameters.parse(notebook(tmp_path / "x.ipynb", line))


# --- the runner, in a small project of its own


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    for name in ("run.py", "page.py", "parameters.py", "orphans.py", "warm.py", ".ipython"):
        source = SOURCES / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (root / "notebooks").mkdir(exist_ok=True)
        copy(source, root / "notebooks" / name)
    (root / "mtl_core").mkdir()
    (root / "mtl_core" / "__init__.py").write_text("")
    (root / "notebooks" / "part").mkdir()
    work = "import os, time\nprint(os.path.abspath('x'), object())\n"
    work += "if seeds > 8: time.sleep(60)\nprint(1 / (5 - seeds))"
    notebook(root / "notebooks" / "part" / "chapter.ipynb", work=work)
    return root


@pytest.fixture(scope="module")
def runner(project):
    before, path = dict(os.environ), list(sys.path)
    sys.path.insert(0, str(project / "notebooks"))
    yield load(project / "notebooks" / "run.py", "notebook_runner")
    os.environ.clear()
    os.environ.update(before)
    sys.path[:] = path


def written(project):
    path = project / "book" / "notebooks" / "part" / "chapter.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_runner_makes_a_page_and_keeps_it(project, runner, capsys):
    assert runner.main([]) == 0
    book = written(project)
    card, text = book["metadata"]["mtl_run"], json.dumps(book)
    assert dict(card["parameters"])["seeds"] == 1
    assert [name for name, _ in card["parameters"]][0] == "methods", "in the order of the notebook"
    assert card["command"] == "make run PAGE=chapter" and card["seconds"] > 0
    assert str(project) not in text and "papermill" not in book["metadata"] and "0x7" not in text
    assert "](../../rerun.md)" in text
    assert "up to date" not in capsys.readouterr().out

    assert runner.main([]) == 0 and "up to date" in capsys.readouterr().out
    assert runner.main(["--page", "chapter", "--parameters", "seeds=3"]) == 0
    assert dict(written(project)["metadata"]["mtl_run"]["parameters"])["seeds"] == 3
    capsys.readouterr()

    assert runner.main(["--absent"]) == 0 and "up to date" in capsys.readouterr().out
    assert runner.main([]) == 0
    assert "executed anew, because it was made with {'seeds': 3}" in capsys.readouterr().out
    assert written(project)["cells"] == book["cells"], "the same run gives the same page"


def test_a_forked_kernel_makes_the_same_page_and_ends(project, runner, monkeypatch):
    import warm

    forks, pages = [], []
    monkeypatch.setattr(warm, "Fork", lambda *a, make=warm.Fork: forks.append(make(*a)) or forks[-1])
    for warmed in (False, True):
        assert runner.execute(project / "notebooks/part/chapter.ipynb", {}, {}, "", warm=warmed) > 0
        pages.append(written(project)["cells"])
    assert pages[0] == pages[1]
    (fork,) = forks
    assert fork.wait() == 0, "its process has ended by itself"


def test_a_failure_keeps_the_page_and_names_the_cell(project, runner, capsys):
    runner.main([])
    before = written(project)
    assert runner.main(["--page", "chapter", "--parameters", "seeds=5"]) == 1
    said = capsys.readouterr().out
    assert "begins `import os, time`" in said and "ZeroDivisionError: division by zero" in said
    assert written(project) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--page", "chaptr"], "did you mean 'chapter'"),
        (["--page", "chapter", "--parameters", "seed=1"], "did you mean 'seeds'"),
        (["--parameters", "seeds=1"], "need a page"),
        (["--page", ""], "name a page"),
    ],
)
def test_wrong_calls_execute_nothing(runner, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(runner, "execute", lambda *_, **__: pytest.fail("executed"))
    assert runner.main(arguments) == 1
    assert message in capsys.readouterr().err


def _wait_for_the_cell(project, seconds=60):
    """Until Papermill's copy says that the chapter's last cell, which sleeps, is running."""
    copies, until = project / "_build" / "pages", time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            (copy,) = copies.glob(".chapter.*.part.ipynb")
            cell = json.loads(copy.read_text(encoding="utf-8"))["cells"][-1]
            if cell["metadata"].get("papermill", {}).get("status") == "running":
                return
        except (FileNotFoundError, ValueError):
            pass  # not yet there, or being written
        time.sleep(0.05)
    pytest.fail(f"the cell did not start within {seconds} s")


def test_interrupt_ends_cleanly(project):
    command = [sys.executable, "notebooks/run.py", "--page", "chapter", "--parameters", "seeds=9"]
    with subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite started in the background hands "ignore SIGINT" down to every child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert "executing" in process.stdout.readline()
        _wait_for_the_cell(project)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1].startswith("Interrupted. Finished runs are kept"), error
    assert "Traceback" not in error


@pytest.mark.parametrize("room", ["mtl_core/__init__.py", "results/x.json", "results/runs.jsonl", "book/papers/t.csv"])
def test_fingerprint_follows_what_a_page_is_made_from(project, room):
    path = project / "notebooks" / "part" / "chapter.ipynb"
    before = page.fingerprint(path, {"seeds": 1}, project)
    assert page.fingerprint(path, {"seeds": 1}, project) == before
    assert page.fingerprint(path, {"seeds": 2}, project) != before
    file = project / room
    file.parent.mkdir(parents=True, exist_ok=True)
    old = file.read_bytes() if file.exists() else None
    try:
        file.write_text("# changed\n")
        assert page.fingerprint(path, {"seeds": 1}, project) != before
    finally:
        file.unlink() if old is None else file.write_bytes(old)


def test_what_a_page_reads_beside_that_makes_it_stale_too(project):
    path, file = project / "notebooks" / "part" / "chapter.ipynb", project / "tests" / "reference.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("a = 1\n")
    source = path.read_text(encoding="utf-8")

    def mark(*reads):
        book = json.loads(source)
        book["metadata"]["reads"] = list(reads)
        path.write_text(json.dumps(book))
        return page.fingerprint(path, {}, project)

    try:
        before, aside = mark("tests/reference.py"), mark()
        file.write_text("a = 2\n")
        assert mark("tests/reference.py") != before and mark() == aside
        assert mark("tests") == mark("tests/reference.py")
    finally:
        path.write_text(source)


def test_nothing_of_this_machine_survives(tmp_path):
    text = f"{tmp_path}/a.py and {pathlib.Path.home()}/b and /tmp/ipykernel_12/34.py:3 <A at 0x7f12abcd9876>"
    assert page.strip_machine(text, tmp_path) == "a.py and ~/b and <cell>:3 <A at 0x…>"
