"""Where results come from: a digest of the sources that decide them, and machine, versions and time of a run."""

import ast
import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path

import torch

from mtl_lab import ROOT

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
DECISIVE = (
    "mtl_core",
    *(f"mtl_lab/runs/{name}.py" for name in ("build", "checkpoints", "conflict_log", "gradient_probe")),
    *(f"mtl_lab/runs/{name}.py" for name in ("released_code", "weights")),
)  # config to outcome
LIBRARIES = ("torch", "torchjd", "numpy", "scipy", "cvxpy", "clarabel")  # gradients, methods and their solvers


@functools.cache
def source_digest(root: Path = ROOT) -> str:
    """Digest of the `DECISIVE` sources and of the versions of `LIBRARIES`: 16 hexadecimal digits.

    Comments, docstrings and layout do not change it.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    digest = hashlib.sha256(f"{versions[0]} {torch.__version__} {versions[1:]}".encode())
    for entry in DECISIVE:
        for path in sorted((root / entry).rglob("*.py")) if (root / entry).is_dir() else [root / entry]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False):
                    node.body[0].value.value = ""
            digest.update(path.relative_to(root).as_posix().encode() + ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def provenance(device: str = "cpu") -> dict:
    """Commit, versions, hardware and time of a run: no paths, no host names."""

    def git(*arguments):
        try:
            done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", "mtl_core", "mtl_lab")
    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {
        "commit": git("rev-parse", "HEAD"),
        "clean": None if changed is None else changed == "",
        "source_digest": source_digest(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torchvision", "numpy")},
        "torch": torch.__version__,  # it names the build too
        "machine": platform.machine(),
        "system": platform.system(),
        "hardware": hardware,
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
