"""The updates of every method, on made-up matrices, are the golden ones."""

import golden_values
import pytest

COMPUTE, NAMES = golden_values.GOLDEN["updates"]
STORED = golden_values.stored("updates")


def test_each_has_golden_values_and_no_other():
    assert sorted(STORED) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name):
    """Red on purpose? `python tests/golden_values.py --write updates` renews them and prints what changed."""
    assert not golden_values.changes("updates", name, STORED[name], COMPUTE(name))
