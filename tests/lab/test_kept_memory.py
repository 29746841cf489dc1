"""Workers keep the memory that they free."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mtl_lab.runs import processes
if sys.argv[1] == "kept":
    processes.keep_memory()
for step in range(6):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20) for _ in range(16)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="an allocator other than glibc's")
def test_what_a_step_frees_the_next_has_at_once():
    """Four steps of 64 MB take 65,536 new pages of the system, or next to none."""
    told = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "given back")
    }
    assert told["kept"] < 1000 < told["given back"]
