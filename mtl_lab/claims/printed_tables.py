"""The numbers that papers print, from `book/papers/`: a CSV file for each table, a row for each number."""

import csv
import re
from pathlib import Path

from mtl_lab import ROOT as CHECKOUT
from mtl_lab.files import damage_named, read_yaml

ROOT = CHECKOUT / "book" / "papers"
COLUMNS = ["table", "row", "method", "variant", "dataset", "task", "metric", "value", "unit"]
COLUMNS += ["higher_is_better", "note"]
_DIRECTIONS = {"true": True, "false": False, "": None}


def about(paper: str) -> dict:
    """Title, authors, version, addresses and captions (in our words) of a paper. LookupError if it is unknown."""
    path = ROOT / paper / "paper.yml"
    if not path.is_file():
        known = sorted(p.parent.name for p in ROOT.glob("*/paper.yml")) or f"none under {ROOT}"
        raise LookupError(f"no printed tables of a paper {paper!r}; the papers are: {known}")
    return read_yaml(path)


def path(paper: str, table: int) -> Path:
    """The file of one printed table. LookupError, with the tables that exist, if there is none."""
    about(paper)
    known = {int(p.stem.removeprefix("table_")): p for p in sorted((ROOT / paper).glob("table_*.csv"))}
    if table not in known:
        raise LookupError(f"no table {table!r} of {paper!r}; its tables are: {list(known)}")
    return known[table]


def table(paper: str, table: int) -> list[dict]:
    """One dict for each number that table `table` of `paper` prints, in the printed order.

    Keys: those of `COLUMNS`, typed (value float, row int, higher_is_better bool, or None where the paper gives no
    direction); `printed`, the digits as text; `half_unit`, half of the last printed digit, so that the number before
    rounding lay within value ± half_unit. Numbers with the same `row` are printed in one line of the table.
    Errors: LookupError for an unknown paper or table; ValueError for a malformed file, with its line.
    """
    file = path(paper, table)
    with damage_named(file), file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{file.name}: expected the columns {COLUMNS}, got {reader.fieldnames}")
        rows = [_typed(row, f"{file.name}, line {reader.line_num}", table) for row in reader]
        seen = set()
        for row in rows:
            key = row["row"], row["task"], row["metric"]
            if key in seen:
                raise ValueError(f"{file.name}: row {key[0]} has {key[2]!r} of task {key[1]!r} twice")
            seen.add(key)
    return rows


def _typed(row, where, table):
    try:
        digits = re.fullmatch(r"-?\d+(\.\d+)?", row["value"])[0]
        typed = {
            "table": int(row["table"]),
            "row": int(row["row"]),
            "value": float(digits),
            "higher_is_better": _DIRECTIONS[row["higher_is_better"]],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: expected numbers and a direction that is true, false or empty") from error
    if typed["table"] != table:
        raise ValueError(f"{where}: says table {typed['table']}, the file is that of table {table}")
    return row | typed | {"printed": digits, "half_unit": 0.5 * 10.0 ** -len(digits.partition(".")[2])}
