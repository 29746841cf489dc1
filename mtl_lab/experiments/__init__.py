"""One file per experiment. Importing this package imports all of them, and each registers what it defines."""

import functools
import pkgutil
from importlib import import_module
from pathlib import Path

from mtl_lab import records
from mtl_lab.experiments.registry import GRIDS, RULES, SEARCHES, STUDIES, TABLES
from mtl_lab.files import damage_named
from mtl_lab.protocol import committed as _committed
from mtl_lab.protocol.verdict import TableVerdict, judge

__all__ = ["GRIDS", "KINDS", "RULES", "SEARCHES", "STUDIES", "TABLES", "committed"]

KINDS = (TABLES, SEARCHES, GRIDS, STUDIES)

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")


@functools.cache
def committed(name: str, profile: str, root: Path = records.ROOT) -> TableVerdict | None:
    """The verdict on the committed records of the table `name`; None while it has none."""
    table = TABLES[name](profile)
    with damage_named(records.folder(name, profile, root)):
        table_records = _committed.load(table, root)
        if not table_records:
            return None
        return judge(table, table_records, _committed.search_of(table, root) or {}, _committed.seeds_of(table, root))
