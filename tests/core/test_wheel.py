"""The wheel: built as an index would get it, unpacked into an empty folder, used from outside the repository."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import mtl_core

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "NOTICES")
STEP = """
import mtl_core, torch
from mtl_core import data, methods
print(mtl_core.__file__)
assert "pcgrad" in mtl_core.METHODS and "recon" in methods.CONVENTIONS
x = torch.nn.Linear(4, 4)
heads = torch.nn.ModuleList([torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)])
balancer = mtl_core.Balancer("pcgrad", torch.nn.ModuleList([x, heads]))
balancer.backward([head(x(torch.ones(3, 4))).pow(2).mean() for head in heads])
assert x.weight.grad.abs().sum() > 0
assert len(data.load("multi_fashion_mnist", profile="tiny").train) > 1000
assert len(data.load("qm9", profile="tiny").train) > 100
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the project's own backend, from a copy: a build leaves folders behind."""
    backend = PROJECT["build-system"]["build-backend"]
    if importlib.util.find_spec(backend.partition(".")[0]) is None:
        pytest.skip(f"no build backend at hand: {backend}")
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "mtl_core", folder / "mtl_core", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mtl_lab").mkdir()
    (folder / "mtl_lab" / "__init__.py").touch()
    build = f"from {backend} import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_it_holds_all_of_the_core_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (ROOT / "mtl_core").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(ROOT).as_posix() for p in files} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mtl_core", "conflicting_gradients"}
    assert "mtl_core/py.typed" in names and any(name.endswith(".npz") for name in names)


def test_one_step_from_outside(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STEP], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.strip()).parents[1] == tmp_path / "installed"


def test_what_an_index_shows(wheel):
    """One version everywhere; the text's links lead somewhere from there, too."""
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    shown = Parser().parsestr(archive.read(name).decode())
    assert shown["Version"] == mtl_core.__version__
    cited = re.search(r"(?m)^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert cited[1] == newest[1] == mtl_core.__version__
    assert shown["License-Expression"] == "MIT" and shown.get_all("License-File") == ["LICENSE", "NOTICES"]
    assert {line.partition(",")[0] for line in shown.get_all("Project-URL")} >= {"Documentation", "Repository"}
    assert "Typing :: Typed" in shown.get_all("Classifier")
    text = shown.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert len(links) > 5 and all(link.startswith("https://") for link in links)
    within = [link.partition("/main/")[2] for link in links if "/main/" in link]
    assert within and all((ROOT / place).exists() for place in within)
