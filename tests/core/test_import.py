"""What `import mtl_core` costs: data, a method and a combined matrix load none of the libraries that are extras."""

import subprocess
import sys

import pytest

from mtl_core import _extras

EXTRAS = ("torchvision", "torchmetrics", "matplotlib", "pandas", "IPython", "yaml", "pooch", "requests", "typer")
EXTRAS += ("filelock", "mtl_lab")
STEP = """
import sys, torch
import mtl_core, mtl_core.data
from mtl_core import methods
for name in ("pcgrad", "sam_gs"):
    update = methods.make(name)(torch.tensor([[1.0, 0.5, 2.0], [0.5, 1.0, -1.0]]))
    assert update.shape == (3,), update
print(*sorted(name for name in {extras!r} if name in sys.modules))
"""


def test_a_step_of_a_method_loads_no_extra():
    done = subprocess.run(
        [sys.executable, "-c", STEP.format(extras=EXTRAS)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_missing_extra_is_named_in_one_sentence():
    with pytest.raises(ImportError, match=r'^no_such_library is not installed: pip install "conflicting-gradients\[v'):
        _extras.require("no_such_library.part", "vision")


def test_public_names_are_there_and_others_are_not():
    import mtl_core

    assert all(callable(getattr(mtl_core, name)) or name == "METHODS" for name in mtl_core.PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'Balanser'"):
        mtl_core.Balanser  # noqa: B018
