"""The store of runs that this machine trained: `.runs/` or $MTL_RUNS, by configuration and source digest.

It is separate from `results/`, the committed records of reference results.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mtl_core.seeds import wobble
from mtl_lab import ROOT
from mtl_lab.files import write_atomically
from mtl_lab.runs.provenance import source_digest
from mtl_lab.runs.run import Run


class Store:
    """Finished runs as JSON files, unfinished ones as checkpoints, under the digest of the sources."""

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root or os.environ.get("MTL_RUNS") or ROOT / ".runs")
        self.folder = self.root / (source_digest() + wobble())

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.identity}.json"

    def checkpoint(self, run: Run) -> Path:
        return self.path(run).with_suffix(".checkpoint.pt")

    def get(self, run: Run) -> dict | None:
        """The record of a finished run, or None."""
        try:
            return json.loads(self.path(run).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def put(self, run: Run, record: Mapping) -> None:
        write_atomically(self.path(run), json.dumps(record, sort_keys=True, indent=1) + "\n")
        self.checkpoint(run).unlink(missing_ok=True)
