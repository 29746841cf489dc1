"""Weights of the tasks, recorded in one run and replayed in another: what of a method is its weights, what its timing?

The two methods here, `METHODS`, belong to the laboratory: runs name them, the registry does not hold them. Both act on
what tasks share; heads keep the gradients of their own tasks in all runs.
"""

import base64
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchjd import aggregation

from mtl_core.data.problem import Problem
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.linalg import finite_norms
from mtl_core.methods.backward import task_weights
from mtl_core.methods.conventions import named
from mtl_core.methods.registry import AGGREGATION, Method, find, make
from mtl_core.seeds import numpy_generator
from mtl_lab.runs.run import Run

METHODS = ("recorded", "replayed")
BLOCK = 50  # steps


def weights_of(spec: Method, method: nn.Module, matrix: Tensor, losses: Tensor) -> Tensor:
    r"""w, (K,), with $u = \sum_k w_k g_k$ for the method's update of J, (K, D). ValueError where there are none."""
    if (found := task_weights(method, spec, named("plain"), matrix, losses)) is None:
        # What remains are the sums of gradients brought to their mean norm:  w_k = \bar n / n_k
        found, update = (norms := finite_norms(matrix)).mean() / norms, method(matrix)
        if not torch.allclose(found.to(matrix) @ matrix, update, rtol=1e-3, atol=1e-4 * float(update.abs().max())):
            raise ValueError(f"the update of {spec.name} is no weighted sum of the task gradients")
    return found.to(matrix)


class Weighted(nn.Module):
    r"""Another method, as the weights that it gives, or as those of a table: (K, D), (K,) losses -> (D,).

    method, options  name in the registry; SAM-GS only at $\gamma = 1$, where it is a weighted sum.
    kappa     the dose: $\sum_k (1 + \kappa (w_k - 1)) g_k$; 0 is the sum, 1 the method.
    match     bring the update to the length of $\sum_k g_k$.
    balanced  in place of g_k the gradient of $\log L_k$, for method and sum alike.
    lag       use the weights of so many steps ago; at the start those of the first step.
    table     (T, K + 1): the weights of each step in place of the method's, and the length of the update; after its
              end the last ones. With `lengths` the update gets that length.

    only      ranges [start, stop) of columns of J: the method reads these alone, and its weights act on these alone; in
              all others the update is the sum.

    trace     of each step the weights, without lag, and the length of the update; a checkpoint holds it.

    NonFiniteGradientError where a task's gradient becomes zero: its weight is not defined.
    """

    def __init__(
        self, method, options=(), kappa=1.0, match=False, balanced=False, lag=0, table=None, lengths=False, only=()
    ):
        super().__init__()
        self.spec, self.inner = find(method), make(method, **dict(options))
        self.kappa, self.match, self.balanced, self.lag = kappa, match, balanced, lag
        self.table, self.lengths, self.trace = table, lengths, list[Tensor]()
        self.only = torch.cat([torch.arange(*ends) for ends in only]) if only else slice(None)

    @torch.no_grad()
    def forward(self, matrix: Tensor, losses: Tensor) -> Tensor:
        rows, t = matrix / losses[:, None] if self.balanced else matrix, len(self.trace)
        if self.table is None:
            # The dose:  1 + \kappa (w_k - 1)
            new = torch.lerp(
                torch.ones_like(losses), weights_of(self.spec, self.inner, rows[:, self.only], losses), self.kappa
            )
        else:
            *_, length = now = self.table[min(t, len(self.table) - 1)].to(matrix)
            new = now[:-1]
        if len(new) != len(rows) or (t and len(new) + 1 != len(self.trace[0])):
            raise NonFiniteGradientError("a task's gradient became zero: it has no weight")
        update = rows.sum(0)
        update[self.only] = (self.trace[max(t - self.lag, 0)][:-1] if self.lag and t else new) @ rows[:, self.only]
        if self.match or self.lengths:
            update *= (rows.sum(0).norm() if self.match else length) / update.norm().clamp(min=1e-30)
        self.trace.append(torch.cat([new, update.norm()[None]]))
        return update

    def get_extra_state(self) -> Tensor:
        return torch.stack(self.trace) if self.trace else torch.empty(0, 1)

    def set_extra_state(self, state: Tensor) -> None:
        self.trace = [*state]

    def told(self) -> dict:
        """For the record: the trace, (T, K + 1) float32, as text, and each task's mean share of the weights."""
        table = self.get_extra_state().cpu()
        text = base64.b64encode(table.numpy().tobytes()).decode()
        return {"trace": text, "weights": (table[:, :-1] / table[:, :-1].sum(1, keepdim=True)).mean(0).tolist()}


class Script(aggregation.Weighting):
    """The weights (K,) of each step in turn, of a table (T, K); after its end the last ones. It looks at nothing."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, matrix: Tensor | None = None, /) -> Tensor:
        self.step += 1
        return self.weights[min(int(self.step), len(self.weights)) - 1]


def shaped(weights: Tensor, form: str, epoch: int, seed: int) -> Tensor:
    r"""A trace of weights, (T, K), in another form, (T, K).

    "steps": as it is. "blocks": blocks of 50 steps in random order. "epochs": the mean of each epoch, of so many steps;
    "shuffled epochs": those in random order. The others are constant, means of the shares $w_k / \sum_j w_j$,
    renormalised, times the mean of $\sum_j w_j$: "arithmetic", "geometric", and "last third", the arithmetic mean of
    the last third of the steps. ValueError for another form, and for a geometric mean of weights that are not positive.
    """
    if form == "steps":
        return weights
    if form in ("blocks", "epochs", "shuffled epochs"):
        parts = weights.split(BLOCK if form == "blocks" else epoch)
        order = range(len(parts)) if form == "epochs" else numpy_generator(seed, "null", form).permutation(len(parts))
        return torch.cat([parts[i] if form == "blocks" else parts[i].mean(0).expand_as(parts[i]) for i in order])
    if form not in ("arithmetic", "geometric", "last third") or (form == "geometric" and not (weights > 0).all()):
        raise ValueError(f"no form {form!r} of these weights; a geometric mean needs positive ones")
    shares, last = weights / weights.sum(1, keepdim=True), len(weights) * 2 // 3 if form == "last third" else 0
    mean = shares.log().mean(0).exp() if form == "geometric" else shares[last:].mean(0)
    return (mean / mean.sum() * weights.sum(1).mean()).expand_as(weights)


def replays(runs: Sequence[Run], donors: Sequence[Run], known: Container[str], **options) -> list[Run]:
    """Of the runs whose donor is `known`, by identity, each with its donor's weights. For the options see `made`."""
    return [
        replace(run, method="replayed", method_options={"donor": json.loads(donor.canonical()), **options})
        for run, donor in zip(runs, donors, strict=True)
        if donor.identity in known
    ]


def made(run: Run, problem: Problem, record_of: Callable[[Run], dict]) -> tuple[nn.Module, Method] | None:
    """The method of a run that names one of `METHODS`, and its entry; None for any other.

    record_of  gives the record of a run, with its trace: it trains the donor where that is missing.

    "recorded" takes the options of `Weighted`. "replayed" takes `weights`, K numbers for all steps; or `donor`, the
    configuration of a run that recorded, whose `match`, `balanced` and `only` hold here too, the `form` of its
    weights (see `shaped`), and `lengths`. Where weights alone are replayed, a step walks the trunk once.
    """
    options = dict(run.method_options)
    if run.method == "recorded":
        return (method := Weighted(**options)), _entry(method.spec, "parameters")
    if run.method != "replayed":
        return None
    if "weights" in options:
        script = Script(torch.tensor([options["weights"]]))
        return aggregation.WeightedAggregator(script), _entry(find("static"), "losses")
    donor, lengths = Run.from_dict(options["donor"]), options.get("lengths", False)
    numbers = torch.frombuffer(bytearray(base64.b64decode(record_of(donor)["trace"])), dtype=torch.float32)
    trace, epoch = numbers.view(-1, len(problem.tasks) + 1), len(problem.train) // run.schedule["batch_size"]
    weights = shaped(trace[:, :-1], options["form"], epoch, run.seed)
    method = Weighted(**donor.method_options, table=torch.cat([weights, trace[:, -1:]], 1), lengths=lengths)
    if method.match or method.balanced or lengths or isinstance(method.only, Tensor):
        return method, _entry(method.spec, "parameters")
    return aggregation.WeightedAggregator(Script(weights)), _entry(method.spec, "losses")


def _entry(spec: Method, level: str) -> Method:
    """As `spec`, so that its scale and its conventions hold, but an aggregation: heads keep their own gradients."""
    return replace(spec, kind=AGGREGATION, level=level, needs=("losses",), learns=False)
