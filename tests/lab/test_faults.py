"""The fastest faults of the harness, drawn from one seed; `make faults` draws all kinds anew."""

import faults
import pytest
from faults import environments, processes, readers, texts  # noqa: F401 (they register their kinds)

SEED = 2026
SECONDS = 0.6  # of processor for each kind, about
FAST = [kind for kind in faults.KINDS.values() if kind.seconds <= 1]


@pytest.mark.parametrize("kind", FAST, ids=lambda kind: kind.name)
def test_each_fault_ends_well_or_in_one_sentence(kind):
    count = min(300, max(3, round(SECONDS / kind.seconds)))
    lines = [faults.happen(kind, f"{SEED} {kind.name} {number}") for number in range(count)]
    assert not [line for line in lines if line["outcome"] == faults.FAILURE]


@pytest.mark.parametrize("name", ["a kill while training", "a full disk while training", "two writers"])
def test_what_comes_while_runs_are_trained_loses_nothing(name):
    line = faults.happen(faults.KINDS[name], f"{SEED} {name}")
    assert line["outcome"] != faults.FAILURE, line


def test_what_is_no_sentence_is_a_failure(tmp_path):
    for said in ("Traceback (most recent call last):\n  x", "", "x\n" * 9, "word"):
        with pytest.raises(faults.Failure):
            faults.judged("fault", 1, said)
    assert faults.judged("fault", 1, "the file x is damaged; fetch it again") == faults.SENTENCE
    with pytest.raises(faults.Failure):
        faults.refused("fault", lambda: 1 / 0, (ValueError,))
