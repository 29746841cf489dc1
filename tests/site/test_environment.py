"""pyproject.toml, environment.yml and requirements.lock in step; the set-up; the workflow's pins."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def module(name):
    """A file of .ci/, which is no package; it finds the files beside it, as when it is run."""
    spec = importlib.util.spec_from_file_location(f"project_{name}", ROOT / ".ci" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.path.append(str(ROOT / ".ci"))
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path.pop()
    return found


setup, site = module("setup"), module("site")


def asked():
    extras = PROJECT["optional-dependencies"].values()
    found = [Requirement(r) for r in [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]]
    return [r for r in found if r.name != PROJECT["name"]]  # an extra that holds others


def locked():
    pins = [Requirement(line.rstrip(" \\")) for line in LOCK.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    return pins


# --- the three files


def test_conda_repeats_the_ranges():
    parts = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    repeated = next(part["pip"] for part in parts if isinstance(part, dict))
    assert repeated[-1] == "-e ."
    assert {str(Requirement(r)) for r in repeated[:-1]} == {str(r) for r in asked()}
    assert f"python{PROJECT['requires-python']}" in parts


def test_the_lock_lies_within_the_ranges():
    pins = {}
    for pin in locked():
        pins.setdefault(canonicalize_name(pin.name), []).append(next(iter(pin.specifier)).version)
    for requirement in asked():
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not locked: make lock"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: locked {version}"


def test_every_locked_line_has_hashes_and_names_no_place():
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", LOCK)[1:]
    assert len(blocks) > 100
    assert not [
        b.split()[0] for b in blocks if not re.match(r"\S+==[^\s;]+.*\\\n(    --hash=sha256:[0-9a-f]{64}.*\n)+", b)
    ]
    assert "://" not in LOCK and not re.search(r"(?m)^\s*--(?!hash)", LOCK)


def test_what_the_project_promises():
    torch = next(r for r in asked() if r.name == "torch")
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains("2.10.0")
    names = {canonicalize_name(r.name) for r in [*asked(), *locked()]}
    assert "ecos" not in names
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">={'.'.join(map(str, setup.OLDEST))}")


# --- the set-up


def test_uv_is_pinned_in_one_place():
    sources = [
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        *(ROOT / ".ci").iterdir(),
        *(ROOT / ".github").rglob("*.yml"),
    ]
    assert [p.name for p in sources if p.is_file() and setup.UV in p.read_text(encoding="utf-8")] == ["setup.py"]


def test_cpu_lock_leaves_out_what_only_a_gpu_needs():
    rest, pair = setup.cpu_lock(LOCK)
    assert [p.split("==")[0] for p in pair] == ["torch", "torchvision"]
    left = {canonicalize_name(n) for n in re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==", rest)}
    gone = {canonicalize_name(p.name) for p in locked()} - left
    assert gone and all(n in ("torch", "torchvision", "triton") or n.startswith(("nvidia-", "cuda-")) for n in gone)
    assert rest.count("--hash") > 1000
    with pytest.raises(setup.SetupError, match="torch and torchvision once each"):
        setup.cpu_lock("numpy==2.0 \\\n    --hash=sha256:0\n")


def test_digest_follows_what_decides_the_environment(tmp_path):
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    project, lock = tmp_path / "pyproject.toml", tmp_path / "requirements.lock"
    text = project.read_text()
    first = setup.digest(tmp_path, "default", "3.11")
    project.write_text(text.replace("line-length = 110", "line-length = 90"))
    assert setup.digest(tmp_path, "default", "3.11") == first, "ruff's settings do not matter"
    project.write_text(text.replace("torch>=2.11", "torch>=2.12"))
    assert setup.digest(tmp_path, "default", "3.11") != first
    project.write_text(text.replace("hypothesis>=6.100", "hypothesis>=6.101"))
    assert setup.digest(tmp_path, "default", "3.11") != first
    project.write_text(text)
    assert setup.digest(tmp_path, "cpu", "3.11") != first != setup.digest(tmp_path, "default", "3.12")
    lock.write_text(lock.read_text() + "#\n")
    assert setup.digest(tmp_path, "default", "3.11") != first


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    return tmp_path / ".venv" / "set-up.json"


def test_a_second_call_installs_nothing(fresh, monkeypatch):
    calls = []
    monkeypatch.setattr(setup, "install", lambda *arguments: calls.append(arguments))
    assert setup.main([]) == 0 and setup.main([]) == 0
    assert len(calls) == 1
    assert setup.main(["--torch", "cpu"]) == 0 and setup.main([]) == 0
    assert [call[1] for call in calls] == ["default", "cpu"], "the kind of torch stays until it is named again"


@pytest.mark.parametrize("fault, code", [(KeyboardInterrupt(), 130), (setup.SetupError("no room"), 1)])
def test_a_broken_set_up_leaves_no_stamp(fresh, monkeypatch, capsys, fault, code):
    fresh.write_text(json.dumps({"digest": "of before", "torch": "default", "root": str(fresh.parents[2])}))

    def broken(*_):
        raise fault

    monkeypatch.setattr(setup, "install", broken)
    assert setup.main([]) == code
    assert not fresh.exists()
    assert "set-up" in capsys.readouterr().err


def test_clear_errors(fresh, monkeypatch, capsys, tmp_path):
    assert setup.main(["--torch", "gpu"]) == 1
    assert "'cpu', 'default' or be left out, got 'gpu'" in capsys.readouterr().err
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 1))
    assert setup.main([]) == 1
    said = capsys.readouterr().err
    assert "Python 3.11 or newer is needed" in said and "make PYTHON=" in said

    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 3 * 10**9))
    with pytest.raises(setup.SetupError, match=r"about 7 GB are needed .* 3.0 GB are free.*TORCH=cpu"):
        setup.check_disk(tmp_path, "default", False)
    setup.check_disk(tmp_path, "default", True)
    setup.check_disk(tmp_path, "cpu", False)
    with pytest.raises(setup.SetupError, match="cannot be reached|index\n  cannot be reached"):
        setup.call([sys.executable, "-c", "raise SystemExit(2)"], None, "installing x")


def test_missing_venv_module_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(setup.SetupError, match="python3-venv"):
        setup.check_interpreter()


@pytest.mark.parametrize("own", [{}, {"UV_DEFAULT_INDEX": "mine"}])
def test_a_mirror_of_pip_holds_for_uv_too(tmp_path, monkeypatch, own):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE", "UV_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "mirror")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert setup.environment(pathlib.Path(sys.executable))["UV_DEFAULT_INDEX"] == own.get("UV_DEFAULT_INDEX", "mirror")


# --- make and the workflow


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in (
        "book",
        "test",
        "wobble",
        "run",
        "results",
        "queue",
        "paper",
        "pause",
        "resume",
        "faults",
        "lab",
        "serve",
        "bench",
        "lock",
        "clean",
    ):
        assert re.search(rf"(?m)^{target}:.*## \S", makefile) and re.search(rf"(?m)^  {target} +\S", listed), target
    phony = re.search(r"(?m)^\.PHONY: ((?:.*\\\n)*.*)$", makefile).group(1).replace("\\", "").split()
    assert set(phony) == set(re.findall(r"(?m)^([a-z]+):", makefile))


@pytest.mark.parametrize(
    "changed, whole",
    [
        ("book/glossary.md", True),
        ("book/_ext/feed.py", True),
        ("results/qm9/runs.jsonl", True),
        ("mtl_core/conflict.py", True),
        ("book/notebooks/page.ipynb", False),
        ("book/_drawn/forest.svg", None),
        ("results/.locks/qm9 small.lock", None),
        ("mtl_core/__pycache__/conflict.pyc", None),
    ],
)
def test_make_run_draws_the_whole_site_where_more_than_pages_changed(changed, whole, tmp_path):
    assert all((ROOT / name).exists() for name in site.SOURCES)
    for name in ("_build/site.stamp", "_build/html/index.html", changed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "_build/site.stamp", (2, 2))
    os.utime(tmp_path / changed, (1, 1))
    assert site.plan(tmp_path, now=3) is None
    os.utime(tmp_path / changed, (3, 3))
    assert site.plan(tmp_path, now=3) == (None if whole is None else (whole, f"{changed} changed"))
    os.utime(tmp_path / "_build/site.stamp", (1000, 1000))
    assert site.plan(tmp_path, now=3)[0] is True, "a stamp of the future hides changed sources"


def write_site(root, text):
    made = root / "_build" / "site" / "_build" / "html"
    made.mkdir(parents=True, exist_ok=True)
    (made / "index.html").write_text(text)


def test_a_site_is_built_aside_and_takes_the_old_ones_place(tmp_path, monkeypatch):
    """A failed build leaves the old site; pages alone that cannot be built make all of it be built."""
    page, calls, outcomes = tmp_path / "_build" / "html" / "index.html", [], []

    def build(root, whole):
        calls.append(whole)
        assert not calls[1:] or page.read_text(), "the old site is there meanwhile"
        write_site(root, f"site {len(calls)}")
        return outcomes.pop(0)

    monkeypatch.setattr(site, "build", build)
    outcomes[:] = [True]
    assert site.make(tmp_path) == 0 and page.read_text() == "site 1"
    assert site.make(tmp_path) == 0 and calls == [True], "nothing changed"
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "new.md").touch()
    os.utime(tmp_path / "_build/site.stamp", (2, 2))
    outcomes[:] = [False]
    assert site.make(tmp_path) == 1 and page.read_text() == "site 1"
    outcomes[:] = [True]
    assert site.make(tmp_path) == 0 and page.read_text() == "site 3" and calls == [True] * 3
    (tmp_path / "book" / "notebooks").mkdir()
    os.utime(tmp_path / "book" / "new.md", (1, 1))
    (tmp_path / "book" / "notebooks" / "page.ipynb").touch()
    os.utime(tmp_path / "_build/site.stamp", (2, 2))
    outcomes[:] = [False, True]
    assert site.make(tmp_path) == 0 and calls[3:] == [False, True] and page.read_text() == "site 5"


def test_a_kill_between_the_two_renames_leaves_the_old_site(tmp_path, monkeypatch):
    old = tmp_path / "_build" / "html.old" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    monkeypatch.setattr(site, "build", lambda root, whole: False)
    assert site.make(tmp_path) == 1
    assert (tmp_path / "_build" / "html" / "index.html").read_text() == "old"


@pytest.mark.parametrize(
    "given, expected",
    [
        ("results EXPERIMENT=qm9 PROFILE=small", "mtl_lab|results|qm9|--profile|small"),
        ("results EXPERIMENT=qm9 PROFILE=tiny SEEDS=3", "mtl_lab|results|qm9|--profile|tiny|--seeds|3"),
        ("results EXPERIMENT=e PROFILE=tiny DASK=tcp://a:1", "mtl_lab|results|e|--profile|tiny|--dask|tcp://a:1"),
        ("paper HOURS=8 TOGETHER=4", "mtl_lab|paper|--hours|8|--together|4"),
        ("paper SHOW=1", "mtl_lab|paper|--show"),
        ("again EXPERIMENT=qm9 ROW=equal", "mtl_lab|again|qm9|--row|equal"),
        ("again EXPERIMENT=e PROFILE=tiny ROW=r SEED=2", "mtl_lab|again|e|--row|r|--seed|2|--profile|tiny"),
    ],
)
def test_make_hands_on_what_it_is_given(given, expected, tmp_path):
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\n(IFS="|"; echo "$*")\nprintenv PYTHONDONTWRITEBYTECODE || exit 0\n')
    stub.chmod(0o755)
    outside = {k: v for k, v in os.environ.items() if k not in ("EXPERIMENT", "PROFILE", "SEED", "SEEDS", "ROW")}
    command = ["make", "--no-print-directory", "BOOT=true", f"VENV={tmp_path}", *given.split()]
    found = subprocess.run(
        command, cwd=ROOT, env=outside | {"PYTHONDONTWRITEBYTECODE": "1"}, text=True, check=True, capture_output=True
    )
    assert found.stdout == f"-m|{expected}\n"


def with_stubs(target, folder, broken=""):
    """(`make -j4 target` with programs that only write their name and first argument to a log, that log)."""
    for name in ("python", "pytest", "ruff", "mypy", "lint-imports"):
        stub = folder / name
        slow = "sleep 0.3; " if name in ("python", "mypy") else ""
        stub.write_text(f'#!/bin/sh\n{slow}echo "{name} $1" >> log\nexit {int(name == broken)}\n')
        stub.chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", "-j4", "BOOT=true", f"VENV={folder}", target]
    return subprocess.run(command, cwd=folder, capture_output=True), (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("target", ["book", "test", "lecture"])
def test_pages_come_before_the_site_under_j(target, tmp_path):
    """With -j both would begin at once, and older pages would be published under a fresh stamp."""
    made, log = with_stubs(target, tmp_path)
    assert made.returncode == 0 and log.index("python notebooks/run.py") < log.index("python .ci/site.py")


@pytest.mark.parametrize("broken", ["python", "pytest", "ruff", "mypy", "lint-imports"])
def test_make_test_fails_where_one_of_its_steps_does(broken, tmp_path):
    """Lint and the site run beside others."""
    assert with_stubs("test", tmp_path, broken)[0].returncode != 0


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text() and script.stat().st_mode & 0o111


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GRANTED = {
    "book": {"deploy": {"pages": "write", "id-token": "write"}},
    "versions": {},
    "release": {"draft": {"contents": "write"}},
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_actions_and_grants_little(path):
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses)
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    granted = {name: job.get("permissions") for name, job in flow["jobs"].items() if "permissions" in job}
    assert granted == GRANTED[path.stem]
    assert all(job["timeout-minutes"] <= 60 for job in flow["jobs"].values())
    commands = [step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
    assert not [c for c in commands if "${{ github." in c], "what somebody else can write stays out of the shell"


def test_one_version_of_an_action():
    found = {}
    for path in WORKFLOWS:
        for name, pin in re.findall(r"uses: ([\w/-]+)@(\S+)", path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(pin)
    assert len(found) > 3 and all(len(pins) == 1 for pins in found.values()), found


def test_versions_are_those_that_the_project_promises():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "versions.yml").read_text(encoding="utf-8"))
    matrix = flow["jobs"]["core"]["strategy"]["matrix"]
    promised = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python ::")
    ]
    assert matrix["python"] == promised and promised[0] == ".".join(map(str, setup.OLDEST))
    pair = [r for name in ("torch", "torchvision") for r in asked() if r.name == name]
    lowest = [f"{r.name}=={next(s.version for s in r.specifier if s.operator == '>=')}.0" for r in pair]
    exchanged = [entry["torch"] for entry in matrix["include"] if entry["torch"] != "locked"]
    assert exchanged == [" ".join(lowest), "--upgrade torch torchvision"]
    assert any(entry["system"].startswith("macos") for entry in matrix["include"])
    tests = [step["run"] for step in flow["jobs"]["core"]["steps"] if "pytest" in step.get("run", "")]
    assert len(tests) == 1 and re.findall(r"tests/\S+", tests[0]) == ["tests/core"]


def test_nothing_committed_names_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [ROOT / name for name in listed if not name.startswith("tests/")]
    assert len(files) > 50
    place = re.compile(r"(?<![\w:/.~-])/(?:root|work|tmp|home/[a-z]+|Users/[A-Za-z]+)/\w|\.\./shared")
    found = []
    for path in files:
        if path.exists() and path.suffix not in (".npz", ".png", ".lock"):
            found += [f"{path.relative_to(ROOT)}: {hit}" for hit in place.findall(path.read_text(encoding="utf-8"))]
    assert not found
