"""The store of runs that this machine trained: `.runs/` or $MTL_RUNS, by configuration and source digest.

It is separate from `results/`, the committed records of reference results.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mtl_core.seeds import wobble
from mtl_lab import ROOT, records
from mtl_lab.files import Damaged, read_json, write_atomically
from mtl_lab.runs.provenance import source_digest
from mtl_lab.runs.run import Run


class Store:
    """Finished runs as JSON files with a digest, unfinished ones as checkpoints, under the digest of the sources."""

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root or os.environ.get("MTL_RUNS") or ROOT / ".runs")
        self.folder = self.root / (source_digest() + wobble() + os.environ.get("MTL_PRECISION", ""))

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.identity}.json"

    def checkpoint(self, run: Run) -> Path:
        return self.path(run).with_suffix(".checkpoint.pt")

    def get(self, run: Run) -> dict | None:
        """The record of a finished run, or None: also where the file does not hold it, with a line on stderr."""
        try:
            record = read_json(self.path(run))
        except FileNotFoundError:
            return None
        except Damaged:
            record = {}
        digest = record.pop("digest", None)
        if record.get("config") == json.loads(run.canonical()) and digest == records.key(record):
            return record
        print(
            f"{self.path(run).name} in {self.root} does not hold its run's record; it is trained again", file=sys.stderr
        )
        return None

    def put(self, run: Run, record: Mapping) -> None:
        plain = json.loads(json.dumps(record))  # as it will be read
        content = {**plain, "digest": records.key(plain)}
        write_atomically(self.path(run), json.dumps(content, sort_keys=True, indent=1) + "\n")
        self.checkpoint(run).unlink(missing_ok=True)
