r"""Conflict set by hand: its sign, and how much of it is removed; with controls that keep all else.

*The sign.* Two synthetic tasks with one frozen readout (`mtl_core.data.two_domains`); s = -1 turns the second task's
labels around. Each task alone has the same law under both signs (a test proves it); where the losses of the second task
alone differ by more than 2 % for certain (95 % interval), nothing is said: 30 seeds cannot show that they agree to 2 %.
Estimand: 100 log harm at s = -1 minus that at s = +1, width 64, m = 0.5. Under both signs harm refers to the same
single-task losses, so that these cancel: it is the difference of 100 log loss of the networks trained together.
Placebo: independent frozen readouts, where the contrast is 0 in law. *Decision*: the interaction, shared minus
independent, 95 % interval over 180 paired seeds; "it is the sign" needs its lower end above 2. The plan had 30: at the
SD of 29 of 12 pilot seeds they find effects from 15 on, 180 from 6 on. Trained private readouts, other widths and
m = 2, at 30 seeds, are descriptive; cosines are logged to see that the sign was set, and explain nothing.

*The dose.* $\sum_k (1 + \kappa (w_k - 1)) g_k$ with PCGrad's w: for two tasks
$w_i = 1 - \min(0, g_1\cdot g_2) / \|g_i\|^2$, so that removing conflict is a weighting, and can be replayed. Controls
at $\kappa = 1$: the weights of another seed's run, step by step; in blocks of 50 steps in random order; their mean. All
with updates as long as the plain sum's, and without controls also at their own length. Data: the above at s = -1; pairs
of QM9's targets with the lowest, the median and the highest predictor of `balanced_pairs`, balanced by the sum of logs,
at half of the table's epochs; all eleven targets. Holm over two contrasts for each data set, SGD primary, 20 seeds (10
for eleven targets, Adam; 120 for the synthetic data, whose pilot had an SD of 5): replayed minus $\kappa = 1$, does
removal help *because it answers conflict*; $\kappa = 0$ minus replayed, do its weights help? In 100 log error,
positive = helps, margin 1.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from mtl_lab import records
from mtl_lab.experiments import qm9
from mtl_lab.experiments.rate_choice import DONORS, by_row, choose, contrasts, in_words, log_error
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.gradient_probe import cross_fitted_cosine
from mtl_lab.runs.run import Run
from mtl_lab.runs.weights import replays
from mtl_lab.statistics.paired import PairedDifference

READOUTS = ("shared", "independent", "trained")
CELLS = ((64, 0.5), (16, 0.5), (256, 0.5), (64, 2.0))  # width, m; the first is primary
RATES = {"sgd": (0.003, 0.01, 0.03), "adam": (0.0028, 0.0056, 0.0112)}  # of QM9's pairs
PREDICTORS = 3 * 55  # records that choose those pairs: three seeds of each
SYNTHETIC_RATES = {"sgd": 0.1, "adam": 0.01}  # for both signs and all widths: of a pilot on seed 900
SAME, MARGIN = 2.0, 1.0  # in 100 log: single-task losses under both signs, and the sign's effect; the dose's effect
DOSES = {f"κ {k:g}{m}": (k, bool(m)) for k in (-1.0, 0.5, 1.0) for m in ("", ", matched")} | {"κ 0": (0.0, False)}
FEW = ("κ 0", "κ 1, matched")
MORE = 6  # times as many seeds where a run is short and decides
DATA = {"synthetic": "sgd", "lowest": "sgd", "median": "sgd", "highest": "sgd", "eleven": "adam"}  # and its optimizer


def synthetic(profile: str, sign: int, width: int, margin: float, readout: str, optimizer: str = "sgd") -> Run:
    schedule = {"epochs": 6, "batch_size": 128, "optimizer": optimizer, "decay": "cosine"}
    schedule["learning_rate"] = SYNTHETIC_RATES[optimizer]
    options, network = {"profile": profile, "sign": sign, "margin": margin}, {"width": width, "readout": readout}
    return Run("two_domains", options, model="two_domains", model_options=network, schedule=schedule)


def pairs(profile: str, root=records.ROOT) -> dict[str, Run]:
    """Name -> run of QM9's pairs with the lowest, the median and the highest predictor; {} before all are measured.

    The predictor is minus the cross-fitted cosine, from the inner products in the rows "predictor …" of
    `balanced_pairs`, averaged over three seeds; data, targets and test molecules are those of that experiment.
    """
    rows = [r for r in records.load("balanced_pairs", profile, root) if r["row"].startswith("predictor ")]
    values: dict[tuple, float] = {}
    for record in rows:
        tasks = tuple(record["config"]["tasks"])
        values[tasks] = values.get(tasks, 0.0) - cross_fitted_cosine(record["conflict"]["products"])
    if len(rows) < PREDICTORS:
        return {}
    order, base = sorted(values, key=lambda tasks: values[tasks]), qm9.table(profile).base
    schedule, options = base.schedule | {"epochs": base.schedule["epochs"] // 2}, rows[0]["config"]["problem_options"]
    chosen = {"lowest": order[0], "median": order[len(order) // 2], "highest": order[-1]}
    return {n: replace(base, tasks=[*t], schedule=schedule, problem_options=options) for n, t in chosen.items()}


@dataclass(frozen=True)
class ConflictDial:
    """The sign of a conflict, and the dose of its removal; rows "together, …", "second alone, …", "DATA, OPTIMIZER, …".

    Replayed runs are planned once their donors have records, those of QM9's pairs once their rate has been chosen.
    """

    profile: str = "small"
    seeds: int = 30

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs."""
        known, table = {record["identity"] for record in records}, qm9.table(self.profile).base
        rows = self.signs() | self.doses("eleven, adam", table, known, FEW, 10)
        for optimizer, rates in RATES.items():
            run, times = synthetic(self.profile, -1, *CELLS[0], "shared", optimizer), MORE if optimizer == "sgd" else 1
            rows |= self.doses(f"synthetic, {optimizer}", run, known, times=times)
            for name, pair in pairs(self.profile).items():
                plain = dial(replace(pair, schedule={**pair.schedule, "optimizer": optimizer}), *DOSES["κ 0"])
                tries, chosen = choose(f"{name}, {optimizer}", plain, rates, records)
                doses = FEW if optimizer == "adam" else tuple(DOSES)
                rows |= tries | (self.doses(f"{name}, {optimizer}", chosen, known, doses) if chosen else {})
        return rows

    def signs(self) -> dict[str, list[Run]]:
        rows = {}
        for width, margin, readout, sign in ((*c, r, s) for c in CELLS for r in READOUTS for s in (1, -1)):
            run = synthetic(self.profile, sign, width, margin, readout)
            decides = (width, margin) == CELLS[0] and readout in READOUTS[:2]
            seeds = range(self.seeds * (MORE if decides else 1))
            together = replace(run, observe={"thresholds": [0.0], "every": 4})
            rows[cell("together", readout, width, margin, sign)] = together.seeds(seeds)
            first, second = (
                replace(run, tasks=[k], model_options={**run.model_options, "domains": [k]}) for k in (0, 1)
            )
            rows[cell("second alone", readout, width, margin, sign)] = second.seeds(seeds)
            if sign == 1:  # which the first task does not know
                rows[cell("first alone", readout, width, margin, sign)] = first.seeds(seeds)
        return rows

    def doses(
        self, name, run: Run, known: Container[str], doses=tuple(DOSES), most=20, times=1
    ) -> dict[str, list[Run]]:
        seeds = range(times * min(self.seeds, most))
        rows = {f"{name}, {dose}": dial(run, *DOSES[dose]).seeds(seeds) for dose in doses}
        rows[f"{name}, donor"] = donors = dial(run, 1.0, True).seeds(DONORS + seed for seed in seeds)
        for form in ("steps",) if doses == FEW else ("steps", "blocks", "arithmetic"):
            rows[f"{name}, replayed {form}"] = replays(run.seeds(seeds), donors, known, form=form)
        return {row: runs for row, runs in rows.items() if runs}


def dial(run: Run, kappa: float, match: bool) -> Run:
    """The run with a dose of PCGrad's weights; QM9's losses are balanced by their logs."""
    options = {"method": "pcgrad", "kappa": kappa, "match": match, "balanced": run.problem != "two_domains"}
    return replace(run, method="recorded", method_options=options)


def cell(what: str, readout: str, width: int = 64, margin: float = 0.5, sign: int = 1) -> str:
    return f"{what}, {readout}, width {width}, m {margin:g}, s {sign:+d}"


def sign_contrasts(found: Sequence[Mapping], *at) -> dict[str, PairedDifference]:
    """s = -1 minus s = +1 in 100 log loss: by readout, their "interaction", and "alone", the second task; each at 95 %.

    at  width and m, of `CELLS`; none: the primary ones. {} while a row is missing.
    """
    rows, at = by_row(found, lambda record: log_error(record, loss=True)), at or CELLS[0]
    names = {r: [cell("together", r, *at, s) for s in (-1, 1)] for r in READOUTS}
    names |= {"interaction": names["shared"] + names["independent"]}
    names |= {"alone": [cell("second alone", "shared", *at, s) for s in (-1, 1)]}
    return {name: d for name, pair in names.items() for d in contrasts(rows, {name: pair}).values()}


def dose_contrasts(found: Sequence[Mapping], data: str, optimizer: str) -> dict[str, PairedDifference]:
    """On data of `DATA`, in 100 log error: "answers" to conflict, and "weights" alone; {} while a row is missing."""
    pair = {"answers": ("replayed steps", "κ 1, matched"), "weights": ("κ 0", "replayed steps")}
    names = {name: [f"{data}, {optimizer}, {row}" for row in rows] for name, rows in pair.items()}
    return contrasts(by_row(found, log_error), names)


def sentences(found: Sequence[Mapping]) -> list[str]:
    """What the records say, in plain words: of the sign, then of the dose on each data set."""
    said = []
    if d := sign_contrasts(found):
        word = "it is the sign" if d["interaction"].low > SAME else "the sign is not shown to matter"
        if d["alone"].low > SAME or d["alone"].high < -SAME:
            word = "the single-task losses differ, so nothing is said"
        said = [f"Sign, harm in percent: {in_words({n: d[n] for n in ('shared', 'interaction')})}: {word}."]
    doses = {data: in_words(dose_contrasts(found, data, optimizer), MARGIN) for data, optimizer in DATA.items()}
    return said + [f"Dose, {data}, gain in percent: {words}." for data, words in doses.items() if words]


register_grid("conflict_dial", ConflictDial)
