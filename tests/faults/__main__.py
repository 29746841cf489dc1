"""Draw faults anew and let them happen: `make faults`."""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from faults import FAILURE, OK, ROOT, SENTENCE, run, summed

RECORD = Path(__file__).with_name("record.jsonl")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="draw these faults again (default: a new seed, which is printed)")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults of a night")
    parser.add_argument("--kind", help="this kind alone")
    parser.add_argument(
        "--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}, from which a page is made"
    )
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    os.environ.setdefault("MTL_DATA", "/nonexistent")  # nothing here needs a full data set
    start = time.monotonic()

    def progress(line):
        if line["outcome"] == FAILURE:
            print(json.dumps(line, ensure_ascii=False), flush=True)

    lines = run(seed, options.share, options.kind, progress)
    counts = collections.Counter((line["kind"], line["outcome"]) for line in lines)
    for name in dict.fromkeys(line["kind"] for line in lines):
        of_kind = [counts[name, outcome] for outcome in (OK, SENTENCE, FAILURE)]
        print(f"{name:28} {sum(of_kind):6} faults: {of_kind[0]} ok, {of_kind[1]} one sentence, {of_kind[2]} failures")
    failures = sum(line["outcome"] == FAILURE for line in lines)
    print(f"{len(lines)} faults, {failures} failures, {time.monotonic() - start:.0f} s; seed {seed}")
    if options.record:
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        head = {"seed": seed, "faults": len(lines), "failures": failures, "commit": commit}
        head["finished"] = time.strftime("%Y-%m-%d", time.gmtime())
        text = "".join(json.dumps(x, sort_keys=True, ensure_ascii=False) + "\n" for x in [head, *summed(lines)])
        RECORD.write_text(text, encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
