"""Recon's table and its parts: what is planned, what made-up records say, and a tiny training of both."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_core import models, recon
from mtl_core.models.resnet import is_norm, released_by_recon
from mtl_lab import completion, records
from mtl_lab.experiments import multi_fashion_mnist, recon_parts, recon_table1
from mtl_lab.experiments.rate_choice import SEED, contrasts
from mtl_lab.experiments.recon import RECON
from mtl_lab.experiments.recon_parts import ReconParts, columns
from mtl_lab.experiments.recon_table1 import FIRST, METHODS, RATES, SYSTEMS, ReconTable1, gains
from mtl_lab.protocol import committed
from mtl_lab.protocol.verdict import deltas
from mtl_lab.runs.run import Run
from mtl_lab.runs.weights import Weighted

NAMES = recon.candidate_layers(models.resnet18([10, 10], width=4))
SCORES = {name: 1000 - 10 * n for n, name in enumerate(NAMES)}  # the first 25 layers are the worst


def record(row, run, accuracy=90.0, **more):
    """A record as its file has it; a search run's has scores, that of BMTAS branches."""
    of = {task: {"loss": 0.3, "accuracy": accuracy} for task in ("digit", "garment")}
    final = {"validation": of} | ({"test": of} if run.test else {})
    names = NAMES if run.model != "mmoe" else [f"experts.{e}.{name}" for e in range(2) for name in NAMES]
    if run.observe and "thresholds" in run.observe:
        scores = [SCORES[name.split(".", 2)[-1] if "experts" in name else name] for name in names]
        more["conflict"] = {"layers": names, "scores": {"-0.1": scores}}
    if run.model == "bmtas":
        more["branches"] = [[0, 0], [1, 1], *[[0, 1]] * 7]
    config = json.loads(run.canonical())
    return {"row": row, "identity": run.identity, "config": config, "final": final, "diverged": None, **more}


def filled(grid, value=lambda row, run: 90.0):
    """The records of a grid, planned until nothing is missing."""
    found = []
    while missing := completion.missing_of_grid(grid, found).values():
        found += [record(row, run, value(row, run)) for row, run in missing]
    return found


@pytest.fixture(scope="module")
def table1():
    plan = ReconTable1()
    found = filled(plan)
    return found, plan.plan(found)


@pytest.fixture(scope="module")
def parts():
    plan = ReconParts()
    found = filled(plan)
    return found, plan.plan(found)


# --- the table's plan


def test_the_rows_of_the_table_and_their_seeds(table1):
    found, rows = table1
    sizes = {row: len(runs) for row, runs in rows.items()}
    for name, seeds in METHODS.items():
        assert [sizes[name + end] for end in ("", " + released", " + ours")] == [seeds] * 3
        assert [sizes[f"rate, {name}{end}"] for end in ("", " + released", " + ours")] == [3] * 3
    assert METHODS["equal"] == METHODS["cagrad"] == 10 and {sizes[row] for row in SYSTEMS} == {3}
    assert sizes["rotograd"] == 5 and "rotograd + ours" not in sizes
    assert len(found) == sum(sizes.values()) == len({r["identity"] for r in found}), "no run is in two rows"
    tried = [run for row, runs in rows.items() for run in runs if row.startswith(("rate", "search"))]
    assert not any(run.test for run in tried) and {run.seed for run in tried} == {SEED}
    assert {run.schedule["epochs"] for row, runs in rows.items() for run in runs if row.startswith("rate")} == {5}
    judged = [run for row, runs in rows.items() for run in runs if not row.startswith(("rate", "search"))]
    assert {run.seed for run in judged} == {*range(FIRST, FIRST + 10)} and all(run.test for run in judged)
    assert {run.schedule["epochs"] for run in judged} == {10}
    few = ReconTable1(seeds=2).plan(found)
    assert {len(few[row]) for row in (*METHODS, *SYSTEMS)} == {2}


def test_the_sets_of_layers(table1):
    _, rows = table1
    of = {end: rows[f"cagrad + {end}"][0].split for end in ("released", "ours")}
    assert of["released"] == released_by_recon(NAMES) and len(of["released"]) == 25
    assert of["ours"][:25] == NAMES[:25]  # then, counted, the BatchNorms that these leave
    assert [*of["ours"][25:]] == [n for n in NAMES[25:] if is_norm(n)] and sum(map(is_norm, of["ours"])) == 20
    assert {run.split_init for run in rows["cagrad + ours"]} == {"reinitialise"}
    plain, split = rows["cagrad"][0], rows["cagrad + released"][0]
    assert replace(split, split=()) == plain and plain.convention == "recon" and plain.method_options["c"] == 0.2
    mixed = rows["mmoe + ours"][0].split
    assert [*mixed[:50]] == [f"experts.{e}.{name}" for name in NAMES[:25] for e in range(2)]
    assert all(map(is_norm, mixed[50:])) and sum(map(is_norm, mixed)) == 40
    assert rows["mmoe + ours"][0].model == "mmoe" and not rows["mmoe"][0].split
    own = rows["bmtas"][0].split  # the made-up branches part after the second block
    assert own == NAMES[NAMES.index("layer2.0.conv1") :]
    assert [*rows["bmtas + ours"][0].split] == [*own, *(n for n in of["ours"] if n not in own)]
    assert rows["search, bmtas"][0].model_options["total_steps"] == 1560


def test_searches_come_first_and_the_best_accuracy_wins():
    plan = ReconTable1()
    first = plan.plan()
    assert {row for row in first if row.startswith("search")} == {f"search, {n}" for n in ("equal", "mmoe", "bmtas")}
    assert "rate, equal" in first and not any("ours" in row or "released" in row for row in first)

    def value(row, run):
        return {0.03: 91.0, 0.1: 93.0, 0.3: 92.0}[run.schedule["learning_rate"]] if row.startswith("rate, eq") else 90.0

    rows = plan.plan(filled(plan, value))
    assert {run.schedule["learning_rate"] for run in rows["equal"]} == {0.1}
    assert {run.schedule["learning_rate"] for run in rows["pcgrad"]} == {0.03}  # all alike: the first
    assert [run.schedule["learning_rate"] for run in rows["rate, equal"]] == [*RATES]


# --- what its records say


def numbers(gain, sd=0.05, seeds=10):
    """Row -> seed -> Δm, with what each set adds to each method."""
    random, rows = np.random.default_rng(0), {}
    for name, n in METHODS.items():
        base = {s: -3 + random.standard_normal() for s in range(FIRST, FIRST + min(n, seeds))}
        rows[name] = base
        for end in ("released", "ours"):
            rows[f"{name} + {end}"] = {s: x + gain[name] + sd * random.standard_normal() for s, x in base.items()}
    for name in SYSTEMS:
        rows[name] = {s: rows["equal"][s] + 1 + sd * random.standard_normal() for s in range(FIRST, FIRST + 3)}
    return rows


def test_every_method_is_an_intersection_union_claim(table1):
    found, _ = table1
    rows = numbers(dict.fromkeys(METHODS, 0.8))
    of = gains(rows, "ours")
    assert [*of] == [*METHODS, "mean"] and of["equal"].n == 10 and of["mgda"].n == 5 and of["mean"].n == 5
    d = np.array([rows["mgda + ours"][s] - x for s, x in rows["mgda"].items()])
    # The lower end of a 90 % interval is the one-sided 95 % limit: t(4) at 0.95 is 2.132
    assert of["mgda"].low == pytest.approx(d.mean() - 2.1318 * d.std(ddof=1) / 5**0.5, abs=1e-4)
    each = [np.mean([rows[f"{m} + ours"][s] - rows[m][s] for m in METHODS]) for s in range(FIRST, FIRST + 5)]
    assert of["mean"].mean == pytest.approx(np.mean(each))
    assert of["mean"].high - of["mean"].low == pytest.approx(2 * 2.7764 * np.std(each, ddof=1) / 5**0.5, rel=1e-3)
    first, second, third = recon_table1.sentences(found, rows)
    assert "improves, by more than 0.3, every method. Gains: equal +0.8" in first and "(25 layers, 20 of them" in first
    assert "(3" in second and third.startswith("Against joint training, three seeds: mmoe +1.0")
    said = recon_table1.sentences(found, numbers(dict.fromkeys(METHODS, 0.8) | {"sam_gs": 0.2}))[0]
    assert "improves every method. Gains" in said
    said = recon_table1.sentences(found, numbers(dict.fromkeys(METHODS, 0.8) | {"sam_gs": 0.0}))[0]
    assert "is not shown to improve every method. Gains" in said and "better" in said.split("mean gain")[1]
    del rows["pcgrad + ours"]
    assert gains(rows, "ours") == {} and len(recon_table1.sentences(found, rows)) == 2


def test_size_of_the_intersection_union_claim():
    """Simulated: where one method gains nothing, the claim is made in 5 % of the cases at most."""
    random, said = np.random.default_rng(1), 0
    for _ in range(300):
        rows = {}
        for name, n in METHODS.items():
            rows[name] = dict.fromkeys(range(n), 0.0)
            gain = 0.0 if name == "mgda" else 3.0
            rows[f"{name} + ours"] = {s: gain + 0.5 * random.standard_normal() for s in range(n)}
        said += min(d.low for name, d in gains(rows, "ours").items() if name != "mean") > 0
    assert 0.01 < said / 300 < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_scores_and_table_are_those_of_committed_records():
    table = multi_fashion_mnist.table("small")
    loaded = committed.load(table)
    rows = [r for r in loaded if r["row"] in ("equal", "recon_equal")]
    found = recon_table1.scores(rows)
    expected = deltas(table, {row.name: [r for r in loaded if r["row"] == row.name] for row in table.rows})
    assert found["recon_equal"] == pytest.approx(expected["recon_equal"]) and len(found["equal"]) == 10
    line = recon_table1.table(rows, found)["equal"]
    assert line["Δm"] == pytest.approx([*expected["equal"].values()])
    accuracy, sd = line["digit"]["accuracy"]
    assert 90 < accuracy < 100 and 0 < sd < 1
    assert recon_table1.scores(rows, "tiny") == {}


# --- the parts' plan


def test_the_rows_of_the_parts_and_their_seeds(parts):
    found, rows = parts
    sizes = {row: len(runs) for row, runs in rows.items() if not row.startswith(("rate", "search"))}
    cells = [*recon_parts.BOTH, *recon_parts.NORM, *recon_parts.CONV, "plain"]
    ten = {*cells, "PCGrad on 25", "PCGrad on 25, donor", "PCGrad on 25, replayed"}
    assert {row for row, n in sizes.items() if n == 10} == ten and {*sizes.values()} == {5, 10}
    assert {row for row in rows if row.startswith("rate")} == {f"rate, {cell}" for cell in cells}
    assert sum(row.startswith("cagrad") for row in sizes) == 4
    assert len(found) == sum(map(len, rows.values())) == len({r["identity"] for r in found})
    assert {row for pair in recon_parts.CONTRASTS.values() for row in pair} <= {*sizes}
    assert {row for pair in recon_parts.APART.values() for row in pair} <= {*sizes}


def test_cells_differ_in_nothing_but_what_they_vary(parts):
    _, rows = parts
    zero, one = (rows[row][3] for row in recon_parts.BOTH)
    assert replace(one, model_options={**one.model_options, "other": 0}) == zero and one.model_options["other"] == 1
    assert zero.model_options["private"] == released_by_recon(NAMES)
    norm, conv = (rows[pair[0]][3].model_options["private"] for pair in (recon_parts.NORM, recon_parts.CONV))
    assert (len(norm), len(conv)) == (20, 5) and {*norm, *conv} == {*zero.model_options["private"]}
    assert all(map(is_norm, norm)) and not any(map(is_norm, conv))
    assert rows["cagrad, conv"][0].model_options["private"] == conv and rows["cagrad, conv"][0].convention == "recon"
    assert rows["norm and conv, λ 0.5"][0].model_options["other"] == 0.5
    assert rows["shared affine"][0].model_options["affine"] == "shared"
    assert rows["released mixture"][0].split == conv and rows["plain"][0].model == "resnet18"


def test_pcgrad_on_some_layers_and_its_control(parts):
    _, rows = parts
    trunk = models.resnet18([10, 10], width=8).trunk
    ends = rows["PCGrad on 25"][0].method_options["only"]
    size = sum(p.numel() for n in released_by_recon(NAMES) for p in trunk.get_submodule(n).parameters())
    assert sum(b - a for a, b in ends) == size
    others = rows["PCGrad on others"][0].method_options["only"]
    assert sorted([*ends, *others])[0][0] == 0 and sum(b - a for a, b in [*ends, *others]) == sum(
        p.numel() for p in trunk.parameters()
    )
    assert columns(trunk, ["bn1"]) == [[392, 400], [400, 408]]
    run, again = (rows[f"PCGrad on 25{end}"][2] for end in ("", ", replayed"))
    donor = Run.from_dict(again.method_options["donor"])
    assert (
        again.seed == run.seed == FIRST + 2 and donor.seed == run.seed + 1000 and donor.method_options["only"] == ends
    )
    assert replace(donor, seed=run.seed).identity == run.identity


def test_which_layers_are_of_one_size(parts):
    _, rows = parts
    wide = models.resnet18([10, 10], width=8, constant_width=True).trunk
    sets = {row: rows[row][0].model_options for row in rows if row.endswith(" five")}
    assert {*sets} == {"worst five", "best five", *(f"random {d}, five" for d in range(3))}
    for options in sets.values():
        norms, five = options["private"][:-5], options["private"][-5:]
        assert options["constant_width"] and sorted(norms) == sorted(filter(is_norm, NAMES))
        assert {wide.get_submodule(n).weight.shape for n in five} == {(8, 8, 3, 3)} and len({*five}) == 5
        assert all(isinstance(n, str) for n in five)
    assert sets["worst five"]["private"][-5:] == [n for n in NAMES if ".conv" in n][:5]
    assert {*sets["worst five"]["private"][-5:]}.isdisjoint(sets["best five"]["private"][-5:])


# --- what its records say


def of_parts(**shift):
    random = np.random.default_rng(3)
    base = {s: random.standard_normal() for s in range(FIRST, FIRST + 10)}
    names = {row for pairs in (recon_parts.CONTRASTS, recon_parts.APART) for pair in pairs.values() for row in pair}
    few = {n for n in names if "five" in n or "others" in n}
    return {
        n: {s: x + shift.get(n, 0) + 0.05 * random.standard_normal() for s, x in base.items() if s < 55 or n not in few}
        for n in sorted(names)
    }


def test_what_the_parts_say():
    rows = of_parts(
        **{"norm and conv, λ 0": 1.0, "norm, λ 0": 0.6, "conv, λ 0": 0.1, "worst five": 0.5, "PCGrad on 25": 0.4}
    )
    found = contrasts(rows, recon_parts.CONTRASTS)
    expected = {
        "separation": 1.0,
        "capacity": 0,
        "norm × separation": 0.9,
        "convolution × separation": 0.4,
        "layers": 0.5,
    }
    assert {name: d.mean for name, d in found.items()} == pytest.approx(expected, abs=0.1)
    assert found["separation"].n == 10 and found["layers"].n == 5
    assert recon_parts.apart(rows)["interaction"].mean == pytest.approx(1.0 - 0.6 - 0.1, abs=0.1)
    first, second, last = recon_parts.sentences(rows)
    assert first.startswith("separation +1.0") and "interaction +0." in second and last == "It is the conflict."
    for missing in ("norm and conv, λ 0", "worst five", "PCGrad on 25"):
        shift = {"norm and conv, λ 0": 1.0, "worst five": 0.5, "PCGrad on 25": 0.4}
        shift[missing] = 0.2 if missing.startswith("norm") else 0.0
        assert recon_parts.sentences(of_parts(**shift))[-1] == "That it is the conflict is not shown."
    del rows["best five"]
    assert contrasts(rows, recon_parts.CONTRASTS) == {} and len(recon_parts.sentences(rows)) == 1


# --- a tiny training


@pytest.mark.parametrize(
    ("module", "Grid", "kept"),
    [
        (recon_table1, ReconTable1, ("equal + ours", "mmoe + ours", "bmtas + ours", "rotograd", "cross_stitch")),
        (recon_parts, ReconParts, ("plain", "norm and conv, λ 0", "norm, λ 1", "PCGrad on 25", "worst five")),
    ],
)
def test_a_grid_trains_from_the_search_to_the_last_row(module, Grid, kept, tmp_path, monkeypatch):
    """A few cells on 128 pictures."""
    full, name = Grid.networks, module.__name__.rpartition(".")[2]
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(module, "RATES", (0.05,))
    monkeypatch.setattr(
        Grid, "networks", lambda self, found: {n: run for n, run in full(self, found).items() if n in kept}
    )
    schedule = {"epochs": 1, "batch_size": 32, "learning_rate": 0.05, "decay": "cosine"}
    options = {"profile": "tiny", "train": 128, "validation": 64, "test": 64}
    settings = {"problem_options": options, "model_options": {"width": 4}, "schedule": schedule}
    monkeypatch.setitem(RECON, "tiny", settings)
    plan = Grid("tiny", 1)
    completion.complete_grid(name, plan, 1, tmp_path)
    found = records.load(name, "tiny", tmp_path)
    assert {r["identity"] for r in found} == {run.identity for runs in plan.plan(found).values() for run in runs}
    rows = {r["row"]: r for r in found}
    assert {*kept} <= {*rows} and {r["diverged"] for r in found} == {None}
    if module is recon_table1:
        sizes = {row: rows[row]["parameters"]["all"] for row in kept}
        assert len(rows["search, bmtas"]["branches"]) == 9 and sizes["equal + ours"] < sizes["mmoe + ours"]
    else:
        assert rows["PCGrad on 25, replayed"]["parameters"] == rows["plain"]["parameters"]
        assert not any("trace" in r for r in found) and len(rows["PCGrad on 25"]["weights"]) == 2


def test_weights_that_act_on_some_columns_only():
    """In the columns of `only` PCGrad of these, elsewhere the sum; replayed, the same."""
    J = torch.tensor([[1.0, 0.0, 5.0, 2.0], [-0.5, 1.0, -7.0, 1.0]])
    plain, part = Weighted("pcgrad"), Weighted("pcgrad", only=[[0, 2]])
    update = part(J, torch.ones(2))
    assert update.tolist() == pytest.approx([0.8, 1.4, -2.0, 3.0])  # by hand
    assert not torch.allclose(plain(J, torch.ones(2))[:2], update[:2])
    again = Weighted("pcgrad", only=[[0, 2]], table=part.get_extra_state())
    assert torch.allclose(again(J, torch.ones(2)), update)
    apart = Weighted("pcgrad", only=[[0, 1], [1, 2]])
    assert torch.equal(apart(J, torch.ones(2)), update)
