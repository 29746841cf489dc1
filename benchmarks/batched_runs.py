"""Core-seconds of QM9's runs: each by itself, as one of S in a batched program, and of the matrix products alone.

    python benchmarks/batched_runs.py [--rounds 6] [--only "pcgrad 11"] [--record] [--show]

The perceptron of the table `qm9`, batch 256, Adam, one thread, on the CPU; an epoch of 20 steps and its evaluation.
A run by itself is `training.fit`. The batched programs train S runs with the same numbers of tasks, method and batch
size; seeds, learning rates and the methods' options are each run's own. One is made with `torch.func`; the other has
the network's backward pass written out and keeps what one task needs in the cache. "products" are the matrix products
of a step and nothing else, which no program can leave out. All take turns within each round, by processor time.

`--record` adds to batched_runs.jsonl beside this file; `--show` prints what follows from it for QM9's grids. The data
of the profile "small" must be there. CONTRIBUTING.md says what was decided; tests/lab/test_batched_runs.py compares
both programs with `fit`.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from rounds import show, take_turns
from torch import Tensor, nn

from mtl_core import methods
from mtl_core.methods.backward import task_weights
from mtl_core.random_state import drawing_from, random_state
from mtl_core.seeds import torch_generator, torch_seed
from mtl_core.training import Schedule, evaluate, fit
from mtl_lab import experiments, records
from mtl_lab.runs import provenance
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.checkpoints import denormals_flushed

RECORD = Path(__file__).with_suffix(".jsonl")
GRIDS = ("qm9", "qm9_sam_gs", "task_pairs")
CASES = (("equal", 1), ("equal", 2), ("equal", 11), ("pcgrad", 2), ("pcgrad", 11), ("sam_gs", 11))  # method, tasks
SIZES = {"torch.func": (8,), "written out": (1, 8, 32)}  # program -> numbers of runs


class Together:
    """S runs as one program. `gradients` is "torch.func" or "written out"; the latter is for squared errors only."""

    def __init__(self, runs, problem, gradients: str):
        self.problem = problem
        self.gradients = {"torch.func": self.torch_func, "written out": self.written_out}[gradients]
        self.models = [build_model(run, problem).to(problem.train.inputs.dtype) for run in runs]
        # Row s holds all parameters of run s, trunk first; an optimizer's group for each has that run's rate
        self.flat = torch.stack([nn.utils.parameters_to_vector(model.parameters()).detach() for model in self.models])
        self.update = torch.zeros_like(self.flat)
        parts = self.flat.split([p.numel() for p in self.models[0].parameters()], 1)
        self.state = {
            n: v.unflatten(1, p.shape) for v, (n, p) in zip(parts, self.models[0].named_parameters(), strict=True)
        }
        self.columns, self.K = sum(p.numel() for p in self.models[0].trunk.parameters()), len(problem.tasks)
        self.matrix = self.flat.new_zeros(len(runs), self.K, self.columns)
        schedules = [Schedule(**run.schedule) for run in runs]
        rows = [row.requires_grad_() for row in self.flat.detach()]
        groups = zip(rows, schedules, strict=True)
        groups = [{"params": [p], "lr": s.learning_rate, "weight_decay": s.weight_decay} for p, s in groups]
        self.rows, self.size = rows, schedules[0].batch_size
        self.optimizer = torch.optim.Adam(groups, fused=True)
        for row, update in zip(rows, self.update, strict=True):
            row.grad = update
        self.spec = methods.find(runs[0].method)
        self.methods = [methods.instance(run.method, None, run.method_options)[1] for run in runs]
        self.convention = methods.named(runs[0].convention).of(self.spec.name)
        self.orders, self.random = [torch_generator(run.seed, "batch order") for run in runs], []
        for run in runs:
            with torch.random.fork_rng([]):
                torch.manual_seed(torch_seed(run.seed, "method"))
                self.random.append(random_state("cpu"))

    def epoch(self) -> list[dict]:
        """Train for one epoch; the values of each run on the validation data."""
        train, tasks = self.problem.train, self.problem.tasks
        targets, total = torch.stack(train.targets, 1), 0
        order = torch.stack([torch.randperm(len(train), generator=order) for order in self.orders])
        for index in order[:, : len(train) // self.size * self.size].split(self.size, 1):
            total = total + self.step(train.inputs[index], targets[index]).double()
            self.optimizer.step()
        values = []
        for model, row in zip(self.models, self.rows, strict=True):
            nn.utils.vector_to_parameters(row.detach(), model.parameters())
            values.append(evaluate(model, tasks, self.problem.validation))
        return values

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The update of each run, of inputs (S, B, …) and targets (S, B, K); the losses (S, K)."""
        losses, pull = self.gradients(inputs, targets)
        factor, ones, every = self.convention.factor(self.spec.native_scale, self.K), losses.new_ones(()), range(self.K)
        if self.K == 1:
            pull(self.update, every, ones.expand_as(losses))
        elif self.spec.level == "losses":
            pairs = zip(self.methods, losses, strict=True)
            weights = [task_weights(method, self.spec, self.convention, None, of_run) for method, of_run in pairs]
            pull(self.update, every, torch.stack(weights).mul_(factor))
        else:
            for k in every:
                pull(self.matrix[:, k], [k], ones.expand(len(losses), 1))
            pull(self.update, every, ones.expand_as(losses), trunk=False)
            self.aggregate(losses)
            shared = self.update[:, : self.columns].mul_(factor)
            if (clip := self.convention.clip) is not None:
                shared.mul_((clip / (torch.linalg.vector_norm(shared, dim=1, keepdim=True) + 1e-6)).clamp(max=1))
        return losses

    def aggregate(self, losses: Tensor) -> None:
        products, weights = (self.matrix @ self.matrix.mT).double(), torch.zeros_like(losses)
        for s, (method, J) in enumerate(zip(self.methods, self.matrix, strict=True)):
            with drawing_from(self.random[s] if self.spec.random else None, J.device):
                found = task_weights(method, self.spec, self.convention, J, losses[s], products[s])
                if found is None:
                    self.update[s, : self.columns] = method(J)
                else:
                    weights[s] = found
                self.random[s] = random_state("cpu") if self.spec.random else None
        if found is not None:
            self.update[:, : self.columns] = torch.bmm(weights[:, None], self.matrix)[:, 0]

    # --- the losses (S, K); a function that writes gradients of a weighted sum of some to `place`, (S, D) or (S, all)

    def torch_func(self, inputs: Tensor, targets: Tensor):
        call, vmap, vjp, model = torch.func.functional_call, torch.func.vmap, torch.func.vjp, self.models[0]

        def of(part: str) -> dict[str, Tensor]:
            return {n.removeprefix(part): v.detach() for n, v in self.state.items() if n.startswith(part)}

        def loss(k: int):
            def of_run(state, x, y):
                return self.problem.tasks[k].loss(call(model.heads[k], state, (x,)), y)

            return lambda state, x: vmap(of_run)(state, x, targets[..., k])

        features, of_trunk = vjp(
            lambda state: vmap(lambda s, x: call(model.trunk, s, (x,)))(state, inputs), of("trunk.")
        )
        losses, of_heads = zip(*(vjp(loss(k), of(f"heads.{k}."), features) for k in range(self.K)), strict=True)

        def pull(place: Tensor, tasks, shares: Tensor, trunk: bool = True) -> None:
            found = [of_heads[k](share) for k, share in zip(tasks, shares.T, strict=True)]
            if place.shape[1] > self.columns:
                parts = [g.flatten(1) for of_head, _ in found for g in of_head.values()]
                place[:, self.columns :] = torch.cat(parts, 1)
            if trunk:
                (of_layers,) = of_trunk(sum(g for _, g in found))
                place[:, : self.columns] = torch.cat([g.flatten(1) for g in of_layers.values()], 1)

        return torch.stack(losses, 1), pull

    def written_out(self, inputs: Tensor, targets: Tensor):
        trunk = [v.detach() for n, v in self.state.items() if n.startswith("trunk")]
        layers, biases = trunk[::2], trunk[1::2]
        of_heads = self.flat[:, self.columns :].detach().unflatten(1, (self.K, -1))  # each w, then its bias
        W, c, hidden = of_heads[..., :-1], of_heads[..., -1], [inputs]
        for layer, bias in zip(layers, biases, strict=True):
            hidden.append(torch.baddbmm(bias[:, None], hidden[-1], layer.mT).relu_())
        errors = torch.baddbmm(c[:, None], hidden[-1], W.mT).sub_(targets)
        ones = errors.new_ones(len(errors), 1, errors.shape[1])

        def pull(place: Tensor, tasks, shares: Tensor, trunk: bool = True) -> None:
            some = slice(tasks[0], tasks[-1] + 1)
            ends = errors[..., some] * (shares[:, None] * (2 / errors.shape[1]))
            if place.shape[1] > self.columns:
                whole = place[:, self.columns :].unflatten(1, (self.K, -1))
                whole[..., :-1], whole[..., -1] = torch.bmm(ends.mT, hidden[-1]), ends.sum(1)
            if trunk:
                back, end = torch.bmm(ends, W[:, some]), self.columns
                for j in reversed(range(len(layers))):
                    back = torch.ops.aten.threshold_backward(back, hidden[j + 1], 0)
                    below, end = end - back.shape[2], end - back.shape[2] - layers[j][0].numel()
                    place[:, below : below + back.shape[2]] = torch.bmm(ones, back)[:, 0]
                    place[:, end:below].unflatten(1, layers[j].shape[1:]).copy_(torch.bmm(back.mT, hidden[j]))
                    back = torch.bmm(back, layers[j]) if j else None

        return errors.square().mean(1), pull


def products(run, problem, passes: int):
    """A step's matrix products and nothing else: forward, and `passes` times backward through the trunk."""
    layers = [p.detach() for p in build_model(run, problem).trunk.parameters() if p.ndim == 2]
    size, count = run.schedule["batch_size"], len(problem.train) // run.schedule["batch_size"]
    below, above = ([torch.rand(size, W.shape[side]) for W in layers] for side in (1, 0))
    outs = [(torch.empty(size, W.shape[0]), torch.empty_like(W), torch.empty(size, W.shape[1])) for W in layers]

    def epoch():
        for _ in range(count):
            for W, x, (y, _, _) in zip(layers, below, outs, strict=True):
                torch.mm(x, W.T, out=y)
            for _ in range(passes):
                for j, (W, x, y, (_, of_weights, of_inputs)) in enumerate(zip(layers, below, above, outs, strict=True)):
                    torch.mm(y.T, x, out=of_weights)
                    if j:
                        torch.mm(y, W, out=of_inputs)

    return epoch


def case(method: str, tasks: int, train: int = 5120, validation: int = 1024):
    """The run of a case, at the share of QM9's sizes at which steps and evaluation keep their proportion."""
    base = experiments.TABLES["qm9"]("small").base
    options = {**base.problem_options, "train": train, "validation": validation}
    schedule = base.schedule | {"epochs": 1, "learning_rate": 2e-3}
    options = {"problem_options": options, "schedule": schedule, "tasks": None if tasks == 11 else list(range(tasks))}
    return replace(base, method=method, convention="samgs" if method == "sam_gs" else "plain", **options)


def measure(method: str, tasks: int, rounds: int) -> dict:
    """Core-seconds of a run by itself, by round; program -> those of one of its runs, as ratios to that round's."""
    run = case(method, tasks)
    problem, together = load_problem(run), methods.find(method).level == "losses"

    def alone():
        model, start = build_model(run, problem), time.process_time()
        fit(model, problem, method, Schedule(**run.schedule), convention=run.convention, seed=run.seed)
        return time.process_time() - start

    def timed(call, of=1):
        def seconds():
            start = time.process_time()
            call()
            return (time.process_time() - start) / of

        return seconds

    calls = {"products": timed(products(run, problem, 1 if together else tasks))}
    for gradients, sizes in SIZES.items():
        for S in sizes:
            calls[f"{gradients}, {S}"] = timed(Together(run.seeds(range(S)), problem, gradients).epoch, S)
    with denormals_flushed():
        floors, ratios = take_turns(lambda call: call(), alone, calls, rounds, 1)
    print(f"\n{method}, tasks {tasks}: a run by itself takes {1e3 * median(floors):.0f} ms, of which the others take")
    show(ratios, {})
    return {"seconds": floors, "ratios": ratios}


def best(path: Path = RECORD) -> dict[tuple[str, int], tuple[float, float]]:
    """(method, tasks) -> median share of the core-seconds: of the best batched program, and of the products alone."""
    found = {}
    for one in records.read_lines(path):
        shares = {name: median(values) for name, values in one["ratios"].items()}
        alone = shares.pop("products")
        found[one["method"], one["tasks"]] = min(shares.values()), alone
    return found


def shares(path: Path = RECORD, root: Path = records.ROOT) -> dict[str, tuple[float, float]]:
    """Grid of QM9 -> the share of its core-seconds that batched programs take at best, and that of the products.

    A method that reads J has the numbers of PCGrad, where it reads the Gram matrix, or of SAM-GS.
    """
    measured, sums = best(path), {}
    for grid in GRIDS:
        for record in records.load(grid, "small", root):
            config, spec = record["config"], methods.find(record["config"]["method"])
            reads = "equal" if spec.level == "losses" else "pcgrad" if "Gram matrix" in spec.needs else "sam_gs"
            both = measured[reads, len(config["tasks"] or range(11))]
            for name in (grid, "all"):
                total = sums.setdefault(name, [0.0, 0.0, 0.0])
                for i, share in enumerate((1.0, *both)):
                    total[i] += share * record["core_seconds"]
    return {grid: (sums[grid][1] / sums[grid][0], sums[grid][2] / sums[grid][0]) for grid in (*GRIDS, "all")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="", help='cases, with commas between, as in "pcgrad 11"; all unless given')
    parser.add_argument("--record", action="store_true", help=f"write each case to {RECORD.name}")
    parser.add_argument(
        "--show", action="store_true", help="measure nothing; print what the record says of QM9's grids"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [name for name in chosen.only.split(",") if name]
    for method, tasks in () if chosen.show else CASES:
        if not wanted or f"{method} {tasks}" in wanted:
            line = records.rounded({"method": method, "tasks": tasks, **measure(method, tasks, chosen.rounds)})
            others = [one for one in records.read_lines(RECORD) if (one["method"], one["tasks"]) != (method, tasks)]
            if chosen.record:
                lines = [*others, line | {"provenance": provenance.provenance()}]
                records.write_lines(sorted(lines, key=lambda one: CASES.index((one["method"], one["tasks"]))), RECORD)
    if chosen.show:
        print(f"{'share of core-seconds':<24}{'batched, at best':>18}{'products alone':>18}")
        for name, both in [*((f"{m}, tasks {K}", both) for (m, K), both in best().items()), *shares().items()]:
            print(f"{name:<24}{both[0]:>18.2f}{both[1]:>18.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
