"""What pages admit: failed networks, shared normalisation, what intervals promise, a strict reviewer's words."""

import json
import pathlib
import sys

import pytest

from mtl_lab import experiments
from mtl_lab.claims import verdicts

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import drawn  # noqa: E402
import ledger  # noqa: E402
import quotes  # noqa: E402


def test_a_table_without_the_networks_that_did_not_train():
    """One of ten networks that ends no better than a constant raises Δm; without it the zero is that of nine."""
    kept = experiments.committed("two_digits", "small")

    def text(*what):
        shown = "".join(node.astext() for node in quotes.record("two_digits", "small", *what))
        return shown.replace("−", "-")

    with_it, without = (float(text("static", "delta", "mean", *t)) for t in ((), ("trained",)))
    zero = [r["final"]["test"]["sum"] for r in kept.records if r["row"] == "single sum"]
    assert sum(one["loss"] > 0.9 for one in zero) == 1 and without < with_it - 1
    assert text("scale_only", "outcome") != text("scale_only", "outcome", "trained")
    assert text("count", "better", "trained").endswith(text("count", "better").split(" of ")[1])
    assert text("log_sum", "difference", "trained").count("[") == 1


def test_rows_that_leave_normalisation_shared_are_marked_and_their_claims_say_so():
    """Behind a fork, shared statistics fit neither task; the published Recon splits every normalisation layer."""
    verdict = experiments.committed("multi_fashion_mnist", "small")
    left = ledger.shared_normalisation(verdict.table)
    assert {"recon_equal", "recon_cagrad", "split_random"} <= set(left) and "split_normalisation" not in left
    with_recon = [row for row in verdict.rows.values() if row.name.startswith("recon_")]
    assert not [row.name for row in with_recon if row.outcome == "better" and row.name in left], "the page says so"
    assert ledger.shared_normalisation(experiments.committed("qm9", "small").table) == {}
    for paper in ("recon", "rotograd", "sam_gs"):
        for claim in verdicts.load(paper):
            found = claim["results"] if isinstance(claim["results"], dict) else {}
            rows = found.get("row", []) if isinstance(found.get("row"), list) else [found.get("row")]
            if found.get("experiment") == "multi_fashion_mnist" and set(rows) & set(left):
                assert "normalisation layers shared behind the fork" in " ".join(claim["note"].split()), claim["id"]


CLAIM = ["index.md", "practitioners.md", "ledger.md"]
CLAIM += [f"ideas/{name}" for name in ("does_conflict_predict_harm", "how_much_is_the_search")]
CLAIM += ["audits/how_to_read_a_table"]
CLAIM += ["recon/recon_multi_fashion_mnist", "rotograd/rotograd_digits", "sam_gs/sam_gs"]


@pytest.mark.parametrize("name", CLAIM)
def test_a_page_that_claims_something_says_first_what_a_strict_reviewer_would(name):
    if name.endswith(".md"):
        text = (ROOT / "book" / name).read_text("utf-8")
        first = text.split("\n## ")[0]
    else:
        book = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
        cells = ["".join(cell["source"]) for cell in book["cells"]]
        text = "\n".join(cells)
        first = text.split("\n## ")[0]
    assert "*What a strict reviewer would say:*" in first
    assert "intervals for all rows at once" not in text, "Holm's intervals do not hold together"


def test_a_contrast_of_doses_says_how_many_seeds_it_rests_on():
    (text,) = drawn.dose_of("conflict_dose", "small", "width", "seeds")
    assert int(text.astext()) >= 2
    with pytest.raises(LookupError, match="no contrast 'width' of 'seed'; there are overlap, width and harm, seeds, "):
        drawn.dose_of("conflict_dose", "small", "width", "seed")
