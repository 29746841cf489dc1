"""The first steps of each row's chosen run, and the measure, are the golden ones."""

import golden_values
import pytest

COMPUTE, NAMES = golden_values.GOLDEN["tables"]
STORED = golden_values.stored("tables")


def test_each_has_golden_values_and_no_other():
    assert sorted(STORED) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name):
    """Red on purpose? `python tests/golden_values.py --write tables` renews them and prints what changed."""
    assert not golden_values.changes("tables", name, STORED[name], COMPUTE(name))
