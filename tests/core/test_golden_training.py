"""Three steps of training by every method give the golden losses and parameters."""

import golden_values
import pytest

COMPUTE, NAMES = golden_values.GOLDEN["training"]
STORED = golden_values.stored("training")


def test_each_has_golden_values_and_no_other():
    assert sorted(STORED) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name):
    """Red on purpose? `python tests/golden_values.py --write training` renews them and prints what changed."""
    assert not golden_values.changes("training", name, STORED[name], COMPUTE(name))
