"""Reading committed results trains nothing, and generic code knows no method and no table by name."""

import ast
import subprocess
import sys
from pathlib import Path

from mtl_core.methods import METHODS
from mtl_lab.experiments import TABLES

ROOT = Path(__file__).resolve().parents[2]
READ = """
import importlib, sys
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
steps = []
register_optimizer_step_pre_hook(lambda *_: steps.append(1))
from mtl_lab import experiments, records
folders = [file.parent for file in records.ROOT.glob("*/*/runs.jsonl")]
assert folders and all(records.load(folder.parent.name, folder.name) for folder in folders)
tables = [folder for folder in folders if folder.parent.name in experiments.TABLES]
assert tables and all(experiments.committed(folder.parent.name, folder.name) for folder in tables)
sys.path.insert(0, "book/_ext")
for file in Path("book/_ext").glob("*.py"):
    importlib.import_module(file.stem)
import mtl_lab.__main__
print(len(steps), sorted(name for name in sys.modules if name.startswith("mtl_core.training")))
"""


def said(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_imports_no_training_code_and_takes_no_step():
    """Records of every folder, every committed table judged, the extensions of the site, the command line."""
    assert said(READ) == "0 []"


def test_records_are_read_without_torch():
    code = (
        "import sys; from mtl_lab import records; print(len(records.load('qm9', 'small')) > 0, 'torch' in sys.modules)"
    )
    assert said(code) == "True False"


# --- generic code

GENERIC = [
    *(ROOT / "mtl_lab" / "protocol").glob("*.py"),
    *(ROOT / "mtl_lab" / "runs").glob("*.py"),
    *(ROOT / "mtl_lab" / "claims").glob("*.py"),
    *(ROOT / "mtl_lab" / f"{name}.py" for name in ("records", "completion", "rerun", "files", "checks", "__main__")),
    *(f for f in (ROOT / "mtl_core").rglob("*.py") if f.parent.name != "methods" and "data" not in f.parts),
]
ALLOWED = {"static", "a_a", "broken", "equal"}  # rows that the protocol itself defines; a run's default method


def named(source):
    """The string literals that are the name of a method or a table."""
    names = (set(METHODS) | set(TABLES)) - ALLOWED
    return {
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and node.value in names
    }


def test_generic_code_names_no_method_and_no_table():
    """Data sets are left out of it: a file of mtl_core/data names its set, and a table may have that name."""
    assert len(GENERIC) > 30
    assert {file: names for file in GENERIC if (names := named(file.read_text(encoding="utf-8")))} == {}


def test_a_name_is_seen():
    assert named('if run.method == "sam_gs" or table.name != "qm9": "about qm9"') == {"sam_gs", "qm9"}
