"""`python tests/solver_table.py` prints `experiments.solvers` as JSON: optimality gap and time of the solvers."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import engine  # noqa: E402, F401 (one torch thread)

from mtl_lab.experiments.solvers import measured  # noqa: E402

if __name__ == "__main__":
    print(json.dumps(measured(), indent=1))
