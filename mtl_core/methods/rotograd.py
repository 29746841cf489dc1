r"""RotoGrad: make the tasks' gradients at the features equally long and let rotations make them agree.

Javaloy, Valera: *RotoGrad: Gradient Homogenization in Multitask Learning*, ICLR 2022, arXiv 2103.02631. Task k sees
$r_k = R_k z$ of the shared features z. With $\tilde G_k = \partial L_k/\partial r_k$, $G_k = R_k^\top \tilde G_k$ over
the whole batch and $U_k = G_k/\|G_k\|_F$, the trunk gets (equations 1 and 2)

$$C \sum_k U_k, \quad C = \sum_k \alpha_k \|G_k\|, \quad
\alpha_k \propto \|G_k\| / \|G_k^0\|,$$

and R_k descends $-\langle R_k^\top \tilde G_k, V\rangle$, $V = \frac1K \sum_k U_k$ (equation 3), in which the
gradients are constants. Each head gets the plain gradient of its own loss. One trunk backward pass per step.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core import _inputs
from mtl_core.gradients import Columns, TaskGradients, all_finite, gradients, reached, vector, views, write
from mtl_core.methods.conventions import CONVENTIONS
from mtl_core.methods.registry import ROTATION, Method, register
from mtl_core.models.rotations import RotatedHeads

TINY = 1e-8  # a loss below is too small to divide by
RESET_SHARE = 1e-4  # of the first loss, below which the burn-in leaves the divisor as it is


class _FeatureRotation(RotatedHeads):
    """What the family shares; `rotates` and `scales` say which halves of RotoGrad a variant has."""

    rotates, scales = True, True

    def __init__(
        self, trunk, heads, rotation_size: int, *, burn_in=20, normalize_losses=False, objective="code",
        rotation_rate=0.5, **options: Any,
    ):  # fmt: skip
        super().__init__(trunk, heads, rotation_size, **options)
        if objective not in ("code", "paper"):
            raise ValueError(f"objective is 'code' or 'paper', got {objective!r}")
        if not (rotation_rate > 0 and burn_in >= 0):
            raise ValueError(f"rotation_rate is positive and burn_in at least 0, got {rotation_rate} and {burn_in}")
        self.burn_in, self.normalize_losses, self.objective = burn_in, normalize_losses, objective
        self.rotation_rate = rotation_rate
        self.rotation.skew.requires_grad_(self.rotates)
        none = self.rotation.base.new_zeros(len(self.heads), dtype=torch.float64)  # 0: none seen yet
        self.initial_losses: Tensor = nn.Buffer(none.clone())  # L_k(t0), (K,)
        self.first_losses: Tensor = nn.Buffer(none.clone())  # of the first step
        self.initial_norms: Tensor = nn.Buffer(none.clone())  # ||G_k^0||, (K,)
        self.steps: Tensor = nn.Buffer(self.rotation.base.new_zeros((), dtype=torch.int64))
        self.convention = CONVENTIONS["plain"]
        self.observers: list[Callable[[TaskGradients], object]] = []
        self.losses, self.passes, self.tasks = torch.zeros(0), 0, [*self.names]
        self.gradients: TaskGradients | None = None

    def rotation_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the rotations, for an optimizer at a rate of their own; none for `ScaleOnly`."""
        return iter([self.rotation.skew] if self.rotates else [])

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of task weights, for a variant that has some."""
        return iter([])

    def parameter_groups(self, learning_rate: float) -> list[dict]:
        """For an optimizer: trunk and heads; what rotates or weighs, `rotation_rate` times as fast, without decay."""
        learned = [*self.rotation_parameters(), *self.weight_parameters()]
        fast = {"params": learned, "lr": learning_rate * self.rotation_rate, "weight_decay": 0.0}
        return [{"params": [*self.model_parameters()]}, *[fast] * bool(learned)]

    def backward(self, losses, features=None, scaler=None, counts: Mapping | None = None) -> None:
        r"""Add the step's gradients to every `.grad`: heads, trunk, rotations (and RotoGradNorm's weights).

        losses    {task: scalar} or a sequence, of the outputs of the last `forward`, all tasks in the heads' order.
        features  not looked at: they are those of the last `forward`.
        scaler    a `torch.amp.GradScaler`; the losses are not scaled yet. What overflows becomes infinity in `.grad`,
                  and no state moves.
        counts    {task: number of examples here}, where several processes have unequal parts of a batch.

        Scale and clip of `convention` apply to the trunk's gradient. Functions in `observers` get J, at K more passes
        through the trunk. A task without gradient takes no part. ValueError: another number of losses, no forward pass
        in training mode before, a loss that reaches other parameters than the
        heads' beside the features; NonFiniteGradientError: NaN or infinity, with the tasks.
        """
        given = _inputs.by_name(losses)
        if self._forward is None:
            raise ValueError("backward() needs a forward pass in training mode before it, one for each")
        there = [name for name, loss in given.items() if loss is not None]
        if len(there) != len(self.heads) or len(there) < len(given) or self.names and {*there} != {*self.names}:
            wanted = ", ".join([f"{len(self.heads)} losses, one per task", *self.names])
            raise ValueError(f"expected {wanted}; got {', '.join(there) or 'none'}")
        for name, loss in given.items():
            _inputs.check_loss(name, loss, scaler)
        if {*given} == {*self.tasks}:  # named as before: in the heads' order, whatever the mapping's
            given = {name: given[name] for name in self.tasks}
        self.tasks = [*given]
        forward, self._forward, self.gradients = self._forward, None, None
        before = [buffer.clone() for buffer in self.buffers(recurse=False)]
        on = scaler is not None and scaler.is_enabled()
        scale = scaler.scale(torch.ones_like(self.initial_norms[0])) if on else 1.0
        try:
            parameters, flat = self._gradients(given, counts or {}, *forward, scale)
        except (ArithmeticError, ValueError) as error:
            for buffer, value in zip(self.buffers(recurse=False), before, strict=True):
                buffer.copy_(value)
            if not on or isinstance(error, ValueError):
                raise
            parameters = [p for p in self.parameters() if p.requires_grad]
            flat = torch.full_like(vector(parameters), torch.inf)
        for p, g in zip(parameters, views(flat.mul_(scale) if on else flat, parameters), strict=True):
            p.grad = g.to(p) if p.grad is None else p.grad.add_(g)
        if self.gradients is not None:
            for observer in self.observers:
                observer(self.gradients)

    def _gradients(self, given, counts, z: Tensor, R: Tensor, rotated: Tensor, scale) -> tuple[list, Tensor]:
        """The parameters that the losses reach, and their gradients, one after the other: (D,)."""
        parts, share, K = torch.stack([*given.values()]), 1.0, len(R)
        seen = parts.detach().double()
        if _inputs.several():
            values, shares, _, _ = _inputs.agree(given, counts, {}, None)
            share, seen = next(iter(shares.values())), seen.new_tensor([*values.values()])
        weights = self._loss_weights(seen)  # also RotoGradNorm's L / L0
        weights = weights if self.normalize_losses else torch.ones_like(weights)
        own = [p for p in self.heads.parameters() if p.requires_grad]
        pulled, *found = gradients([parts], [rotated, *own], [(share * scale * weights).to(parts)], False)
        if pulled is None:
            raise ValueError("the losses do not depend on the outputs of the last forward pass")
        if strange := {*reached([*given.values()])[0]} - {*own, rotated}:
            names = ", ".join(sorted(_inputs.names_in_process(strange)))
            raise ValueError(f"the losses reach {names} past the last forward's features: call backward() for that")
        with torch.no_grad():
            update, pull, back, learned = self._homogenise(R, pulled.to(R) / scale, z, seen)
        named = {name: p for name, p in self.trunk.named_parameters() if p.requires_grad and z.requires_grad}
        trunk, angles = [*named.values()], [*self.rotation_parameters()]
        if self.observers:
            columns = Columns([*named], trunk, K)
            for row, g in zip(columns.rows, back, strict=True):
                write(row, gradients([z], trunk, [self._shaped(g, z).to(z)], True))
            J = _inputs.add_up(columns.matrix)
            self.gradients = TaskGradients(J, columns.layers(J), [*named], [*given])
        of_trunk = gradients([z], trunk, [(self._shaped(update, z) * scale).to(z)], False)
        turned = gradients([R], angles, [pull * scale], False)
        weighing = [learned * (share * scale) for _ in self.weight_parameters()]
        parameters = [*trunk, *own, *angles, *self.weight_parameters()]
        pairs = zip(parameters, [*of_trunk, *found, *turned, *weighing], strict=True)
        kept = [(p, g if isinstance(scale, float) else g / scale) for p, g in pairs if g is not None]
        flat = _inputs.add_up(torch.cat([g.to(R).flatten() for _, g in kept]))
        all_finite({"a gradient of the trunk or of a head": flat})
        # The trunk's gradient under the convention:  s g \min(1, c / \|s g\|)
        factor, size = self.convention.factor("sum", K), sum(g.numel() for g in of_trunk if g is not None)
        norm = factor * torch.linalg.vector_norm(flat[:size]).item() if self.convention.clip else 0.0
        flat[:size] *= factor * self.convention.clip_factor(norm)
        self.steps += 1
        self.losses, self.passes = seen.to(parts), 1 + K * bool(self.observers)
        return [p for p, _ in kept], flat

    def _loss_weights(self, seen: Tensor) -> Tensor:
        """1/|L_k(t0)|, (K,); t0 is the first step with a loss that is not tiny, then the end of the burn-in."""
        large = seen.abs() > TINY
        self.first_losses.copy_(torch.where(self.first_losses == 0, torch.where(large, seen, 0), self.first_losses))
        again = (self.steps == self.burn_in) & (seen.abs() > RESET_SHARE * self.first_losses.abs())
        fresh = large & ((self.initial_losses == 0) | again)
        self.initial_losses.copy_(torch.where(fresh, seen, self.initial_losses))
        # The divisor of each loss, 1 where it has none yet:  L_k / |L_k(t_0)|
        return torch.where(self.initial_losses == 0, 1.0, 1 / self.initial_losses.abs())

    def _homogenise(self, R: Tensor, task_side: Tensor, z: Tensor, seen: Tensor) -> tuple:
        r"""From the gradients $\tilde G_k$ at r_k, (K, B, d, *post), to those of features, rotations and weights.

        Returns the trunk's gradient at the features (N, d), that of R, the G_k (K, N, d), and that of the task weights.
        """
        K, batch = len(R), seen.new_tensor(float(len(z)))
        flat = self._flat(task_side)  # the features last, all else before them: (K, N, d)
        # Back through each rotation, to the shared features:  G_k = R_k^\top \tilde G_k
        m = R.shape[-1]
        back = flat[..., :m] @ R.detach()
        if m < flat.shape[-1]:
            back = torch.cat([back, flat[..., m:]], -1)
        total = back.sum(0)
        weighted = self._weighted(back, total)
        # Lengths over the whole batch, joined over processes:  \|G_k\|_F, \|\sum_k G_k\|, \|\sum_k w_k G_k\|
        parts = (back, total[None], weighted[None])
        squares = [torch.linalg.vector_norm(t.reshape(len(t), -1), dim=1, dtype=torch.float64) ** 2 for t in parts]
        *squared, batch = _inputs.add_up(torch.cat([*squares, batch[None]]))
        norms = torch.stack(squared).sqrt()
        norms, total_norm, weighted_norm = norms[:K], norms[K], norms[K + 1]
        if not (seen + norms).sum().isfinite():
            each = {"the loss of": seen, "the gradient at the features of": norms}
            all_finite({f"{what} {k!r}": x for what, xs in each.items() for k, x in zip(self.tasks, xs, strict=True)})
        # The common direction, (N, d):  V = \frac1K \sum_k G_k / \|G_k\|
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        V = torch.tensordot(inverse.to(back), back, 1) / K
        # What the trunk gets:  C \sum_k U_k, or \sum_k w_k G_k without scaling, w_k = 1 unless they are trained
        update = self._update(V, weighted, norms)
        learned = self._weight_gradients(norms, weighted_norm / K, seen)
        # What the rotations get, the slope of equation 3:  -\partial/\partial R_k <R_k^\top \tilde G_k, V>
        # The code's \|R_k \bar v - \tilde g\|^2, \bar v = m V with m = \|\sum_k G_k\| / K, is 2 m times that
        code = self.objective == "code"
        factor = 2 * total_norm / K / (batch if self.post_shape else 1) if code else torch.ones_like(batch)
        pull = -factor.to(V) * (flat[..., :m].mT @ V[:, :m])
        return update, pull, back, learned

    def _flat(self, gradients: Tensor) -> Tensor:
        return gradients.movedim(gradients.ndim - 1 - len(self.post_shape), -1).flatten(1, -2)

    def _shaped(self, flat: Tensor, features: Tensor) -> Tensor:
        axis = features.ndim - 1 - len(self.post_shape)
        return flat.view(features.movedim(axis, -1).shape).movedim(-1, axis)

    def _update(self, V: Tensor, weighted: Tensor, norms: Tensor) -> Tensor:
        """The trunk's gradient at the features, (N, d)."""
        if not self.scales:
            return weighted
        # Initial norms, taken anew at the end of the burn-in:  \|G_k^0\|
        fresh = ((self.initial_norms == 0) | (self.steps == self.burn_in)) & (norms > 0)
        self.initial_norms.copy_(torch.where(fresh, norms, self.initial_norms))
        shares, C = magnitudes(norms, self.initial_norms)
        # Gradients of one length in the common direction:  C \sum_k U_k = C K V
        return (C * len(norms)).to(V) * V

    def _weighted(self, back: Tensor, total: Tensor) -> Tensor:
        r"""$\sum_k w_k G_k$, (N, d), for a variant that has task weights."""
        return total

    def _weight_gradients(self, norms: Tensor, mean_norm: Tensor, seen: Tensor) -> Tensor | None:
        """The gradient of the task weights, for a variant that has some."""
        return None


class RotoGrad(_FeatureRotation):
    r"""Both halves of RotoGrad, around a trunk and heads: the trunk gets $C\sum_k U_k$, rotations are trained.

    trunk, heads      modules; heads in a list, or by task in a dict: then outputs and losses are by task, too. The list
                      is not changed, all is registered: `.to()`, `state_dict`.
    rotation_size     m: the first m features are rotated.
    post_shape        shape that follows the features, (H, W) for maps (B, d, H, W).
    burn_in           the step, counted from 0, at which $L_k(t_0)$ and the norms of $G_k^0$ are taken anew; 0: never.
    normalize_losses  gradients of $L_k/|L_k(t_0)|$, also for the heads.
    objective         "code": the rotation loss of the released package 0.1.6, $\|R_k \bar v - \tilde g\|^2$ summed over
                      the batch (averaged where post_shape is given) with $\bar v = \|\frac1K\sum_i G_i\| V$;
                      "paper": equation 3.
    init              "identity" or "haar" (uniform on SO(m), as the released package starts), from `generator`.
    orthogonal_map    see `mtl_core.models.rotations.Rotations`.
    rotation_rate     for `training.fit`: learning rate of the rotations, as a multiple of the network's.

    ValueError: an unknown objective, start or map; a rotation_rate that is not positive; a burn_in below 0; a
    rotation_size below 1.
    Differs from the released package: the start is the identity unless asked; a loss or gradient that is zero gives
    a defined step, a tiny loss is not divided by at the end of the burn-in, and losses are divided by their
    absolute value; losses are given by task or in a list, not stacked.
    """


class RotateOnly(_FeatureRotation):
    r"""RotoGrad without its scaling: the trunk gets $\sum_k G_k$, rotations are trained. Arguments as `RotoGrad`."""

    scales = False


class ScaleOnly(_FeatureRotation):
    r"""RotoGrad without training rotations: the trunk gets $C\sum_k U_k$. Arguments as `RotoGrad`; $R_k$ is fixed.

    The released package has no such class.
    """

    rotates = False


class RotoGradNorm(_FeatureRotation):
    r"""RotateOnly with trained task weights: the trunk gets $\sum_k w_k G_k$. Arguments as `RotoGrad`.

    $w = K\,\mathrm{softmax}(a)$ descends $\sum_k |w_k\|G_k\| - \|\frac1K\sum_i w_i G_i\|\,(\hat L_k/\bar L)^\alpha|$,
    the target held constant, $\hat L_k = L_k/L_k(t_0)$, $\bar L$ their mean.

    alpha  $\alpha$; 1.5 is GradNorm's value for NYUv2 (Chen et al., arXiv 1711.02257).

    As the released package, it takes the norm of the mean gradient, where GradNorm takes the mean of the norms.
    ValueError for losses that are not positive: their ratio has no power.
    """

    scales = False

    def __init__(self, trunk, heads, rotation_size: int, *, alpha: float = 1.5, **options: Any):
        super().__init__(trunk, heads, rotation_size, **options)
        self.alpha = alpha
        self.log_weights = nn.Parameter(torch.ones_like(self.rotation.skew[:, 0, 0]))

    @property
    def weights(self) -> Tensor:
        """w, (K,), summing to K."""
        return len(self.log_weights) * self.log_weights.softmax(0)

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer of the task weights holds."""
        return iter([self.log_weights])

    def _weighted(self, back: Tensor, total: Tensor) -> Tensor:
        return torch.tensordot(self.weights.detach().to(back), back, 1)

    def _weight_gradients(self, norms: Tensor, mean_norm: Tensor, seen: Tensor) -> Tensor | None:
        if (seen <= 0).any():
            bad = ", ".join(repr(self.tasks[k]) for k in (seen <= 0).nonzero().flatten().tolist())
            raise ValueError(f"RotoGradNorm needs positive losses; not positive: {bad}")
        # How far each loss has come, and the length that its weighted gradient should have, a constant:
        # \hat L_k = L_k / L_k(t_0);  \|\frac1K \sum_i w_i G_i\| (\hat L_k / \bar L)^\alpha
        ratios = seen * torch.where(self.initial_losses == 0, 1.0, 1 / self.initial_losses.abs())
        target = mean_norm * (ratios / ratios.mean()) ** self.alpha
        # The weights descend the distance to it:  \sum_k |w_k \|G_k\| - target_k|
        with torch.enable_grad():
            distance = (norms.detach() * self.weights - target).abs().sum()
            return torch.autograd.grad(distance, self.log_weights)[0]


def magnitudes(norms: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    r"""$\alpha_k = \rho_k/\sum_i\rho_i$ with $\rho_k = \|G_k\|/\|G^0_k\|$, (K,), and $C = \sum_k\alpha_k\|G_k\|$.

    A task without a gradient so far has rho = 0; all alpha are 0 where all gradients are.
    """
    # How each gradient's norm has grown, its share, and the mean norm by those shares:
    # \rho_k = \|G_k\| / \|G_k^0\|;  \alpha_k = \rho_k / \sum_i \rho_i;  C = \sum_k \alpha_k \|G_k\|
    ratios = torch.where(initial > 0, norms / initial, 0.0)
    shares = ratios / ratios.sum().clamp_min(torch.finfo(ratios.dtype).tiny)
    return shares, (shares * norms).sum()


PAPER, RATE = "Javaloy & Valera 2022, arXiv 2103.02631", "the paper's text: below the network's, such as half of it"
DEFAULTS = {"rotation_rate": (0.5, RATE), "burn_in": (20, "github.com/adrianjav/rotograd 0.1.6")}
register(Method("rotate_only", "RotateOnly", ROTATION, RotateOnly, "sum", PAPER, DEFAULTS, level="features"))
register(Method("scale_only", "ScaleOnly", ROTATION, ScaleOnly, "sum", PAPER, DEFAULTS, level="features"))
register(Method("rotograd", "RotoGrad", ROTATION, RotoGrad, "sum", PAPER, DEFAULTS, level="features"))
register(Method("rotograd_norm", "RotoGradNorm", ROTATION, RotoGradNorm, "sum", PAPER, DEFAULTS, level="features"))
