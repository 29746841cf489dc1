"""Figures and numbers outside notebooks: they name what is missing, and quote what the records say."""

import sys

import numpy as np
import pytest

from mtl_core import association, harm, papers, results

sys.path.insert(0, str(papers.ROOT.parent / "_ext"))
import drawn  # noqa: E402


def test_the_quoted_association_is_that_of_the_records():
    found = harm.pairs(results.load("task_pairs", "small"))
    x, y = ([float(np.mean(getattr(pair, what))) for pair in found] for what in ("dissimilarity", "harm"))
    a = association.between_pairs(x, y, [pair.tasks for pair in found])
    (node,) = drawn.harm_of("task_pairs", "small", "dissimilarity")
    assert node.astext() == f"ρ = {a.rho:+.2f} [{a.low:+.2f}, {a.high:+.2f}] over 55 pairs".replace("-", "−")
    assert drawn.harm_of("task_pairs", "small")[0].astext() != node.astext()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("task_pairs", "tiny"), "no runs of task_pairs, tiny"), (("task_pairs", "small", "angle"), "no measure 'angle'")],
)
def test_what_is_missing_is_named(words, message):
    with pytest.raises(LookupError, match=message):
        drawn.harm_of(*words)
