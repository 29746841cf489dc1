"""An observer of training that measures the angle between task gradients without the noise of a minibatch."""

import torch

from mtl_core.conflict import cosines
from mtl_core.seeds import numpy_generator


class GradientProbe:
    r"""An observer of `training.fit`: inner products of task gradients on two disjoint halves of fresh probe batches.

    On halves A and B the products $P_{ij} = \langle g_i^A, g_j^B \rangle$ have no bias from the noise of a batch, which
    lengthens each gradient and turns pairs away from each other. `cross_fitted_cosine` makes an angle of their means.

    model, problem  what is trained, and on what: `problem.train` is a `Split`.
    seed            decides the molecules of each probe, by the number of the step.
    probe           examples of the train split in a probe, both halves together.
    every           probe before each n-th step, the first one included.
    """

    def __init__(self, model, problem, seed: int, probe: int, every: int):
        self.model, self.problem, self.seed, self.size, self.every = model, problem, seed, probe, every
        self.steps = self.negative = self.probes = 0
        self.products = torch.zeros(len(problem.tasks), len(problem.tasks), dtype=torch.float64)

    def update(self, gradients) -> None:
        self.steps += 1
        self.negative += int((cosines(gradients.matrix) < 0).sum())
        if (self.steps - 1) % self.every == 0:
            random = numpy_generator(self.seed, "batch order", f"probe {self.steps}")
            chosen = torch.from_numpy(random.permutation(len(self.problem.train))[: self.size])
            first, second = (self._gradients(half) for half in chosen.chunk(2))
            self.products += (first @ second.T).double().cpu()
            self.probes += 1

    @torch.enable_grad()
    def _gradients(self, index):
        parameters = list(self.model.trunk.parameters())
        inputs, targets = self.problem.train.batch(index)
        outputs = self.model(inputs.to(parameters[0].device))
        losses = [t.loss(o, y.to(o.device)) for t, o, y in zip(self.problem.tasks, outputs, targets, strict=True)]
        of_tasks = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        return torch.stack([torch.cat([part.flatten() for part in parts]) for parts in of_tasks])

    def summary(self) -> dict:
        """Plain numbers: negative cosines a step, mean of P over the probes, correlations of the train labels."""
        return {
            "iterations": self.steps,
            "negative_share": self.negative / self.steps,
            "products": (self.products / self.probes).tolist(),
            "labels": torch.corrcoef(torch.stack(self.problem.train.targets).double()).tolist(),
        }

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("steps", "negative", "probes", "products")}

    def load_state_dict(self, state) -> None:
        vars(self).update(state, products=state["products"].cpu().clone())


def cross_fitted_cosine(products) -> float:
    r"""The cosine of tasks 0 and 1 from P: $\tfrac12 (P_{01} + P_{10}) / \sqrt{P_{00} P_{11}}$; noise may pass 1.

    NaN where noise leaves P_00 P_11 without a positive value.
    """
    (own, there), (back, other) = products
    return (there + back) / 2 / (own * other) ** 0.5 if own > 0 < other else float("nan")
