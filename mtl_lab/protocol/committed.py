"""What `results/` holds of a table: its records, its search, and how many seeds each row needs.

A table that extends another one takes over that table's single-task networks, reference row and controls. Neither
their search nor their runs are repeated.
"""

from pathlib import Path

from mtl_lab import records
from mtl_lab.files import Damaged, damage_named, shown
from mtl_lab.protocol.table import OTHER_SEEDS, REFERENCE, SEEDS, Table


def load(table: Table, root: Path = records.ROOT) -> list[dict]:
    """The records in the table's folder, then those of the rows that it takes over; [] while its folder has none."""
    new = records.load(table.name, table.profile, root)
    if not new or table.extends is None:
        return new
    seeds = {seed + shift for seed in SEEDS for shift in (0, OTHER_SEEDS)}
    base = records.load(table.extends, table.profile, root)
    return new + [r for r in base if table.takes_over(r["row"]) and r["config"]["seed"] in seeds]


def search_of(table: Table, root: Path = records.ROOT) -> dict | None:
    """search.json, completed by the entries of the rows that the table takes over; None before there is one."""
    search = records.read_json(records.folder(table.name, table.profile, root) / "search.json")
    if search is None:
        return None
    return {**search, "rows": base_entries(table, root) | search.get("rows", {})}


def base_entries(table: Table, root: Path = records.ROOT) -> dict:
    """Row -> its entry in search.json of the extended table, for the rows that this table takes over; else {}."""
    base = base_search(table, root) or {"rows": {}}
    return {row: entry for row, entry in base["rows"].items() if table.takes_over(row)}


def base_search(table: Table, root: Path = records.ROOT) -> dict | None:
    """search.json of the table that this one extends, if there is one; `files.Damaged` where it lacks what is used."""
    if table.extends is None:
        return None
    file = records.folder(table.extends, table.profile, root) / "search.json"
    base = records.read_json(file)
    with damage_named(file):
        return base and {**base, "rows": dict(base["rows"])} | {
            "single_task_validation": base["single_task_validation"]
        }


class SearchMissing(Damaged):
    """The table that this one extends has to be searched first."""


def needed_search(table: Table, root: Path = records.ROOT) -> dict:
    """`base_search`; `SearchMissing` where there is none, or none of the rows that are taken over."""
    search = base_search(table, root)
    if search is None or not base_entries(table, root):
        file = records.folder(str(table.extends), table.profile, root) / "search.json"
        raise SearchMissing(
            f"{table.name} takes rows of {table.extends}, which has no search.json yet: expected {shown(file)} "
            f"with those rows; search it first: make results EXPERIMENT={table.extends} PROFILE={table.profile}"
        )
    return search


def seeds_of(table: Table, root: Path = records.ROOT) -> int | dict[str, int]:
    """Ten, or row -> number of seeds: the reference and the rows in extended.json ({"seeds": 20, "rows": […]})."""
    extended = records.read_json(records.folder(table.name, table.profile, root) / "extended.json")
    if extended is None:
        return len(SEEDS)
    return {name: extended["seeds"] for name in [REFERENCE, *extended["rows"]]}
