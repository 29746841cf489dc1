"""The examples: short, and they train. What those for other libraries need lies in .venv/recipes (make nightly)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = Path(os.environ.get("MTL_RECIPES", ROOT / ".venv" / "recipes"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_read_from_top_to_bottom(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80 and lines[0].startswith('"""') and "if __name__" not in lines
    assert f"examples/{path.name}" in "\n".join(lines), "its first words say how to start it"


def run(*command, folder=""):
    path = os.pathsep.join([str(ROOT), *filter(None, [str(folder)])])
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / command[0]), *command[1:]],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_plain_loop_trains():
    """With the method that learns from the losses after the step; chance is 10 %."""
    said = run("train.py", "--method", "famo", "--convention", "famo", "--epochs", "1")
    assert all(float(share) > 15 for share in re.findall(r"(?:digit|garment) ([\d.]+) %", said)) and "epoch 1" in said


@pytest.mark.skipif(not RECIPES.exists(), reason="what the recipes need is not installed: make nightly")
@pytest.mark.parametrize(
    "command",
    [
        ["lightning.py"],
        ["lightning.py", "--method", "sam_gs"],
        ["hugging_face.py"],
        ["hugging_face.py", "--accumulate", "2"],
    ],
    ids=" ".join,
)
def test_a_recipe_trains(command):
    said = run(*command, folder=RECIPES)
    found = re.findall(r"loss of \w+: ([\d.]+) before, ([\d.]+) after", said)
    assert len(found) == 2 and all(float(after) < 0.9 * float(before) for before, after in found), said
