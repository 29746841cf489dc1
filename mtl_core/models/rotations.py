r"""Rotations of features: K matrices in SO(m) that ordinary optimisers can train, and the layer that applies them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel

MAPS = ("matrix_exp", "cayley", "householder")
EXPONENTIAL_UP_TO = 64  # largest size whose default map is the matrix exponential
TOLERANCE = 1e-5  # largest entry of |RᵀR - I| that passes for rounding


class Rotations(nn.Module):
    r"""K rotations $R_k = B_k\,\varphi(S_k - S_k^\top)$: features (..., d, *post) -> K tensors of that shape.

    tasks, size     K and m; the first m of the d features are rotated, the others pass.
    post            how many dimensions follow that of the features: 0 for (B, d), 2 for maps (B, d, H, W).
    orthogonal_map  $\varphi$: "matrix_exp", "cayley" or "householder"; None chooses by size, see below.
    init            "identity", or "haar": uniform on SO(m), from `generator` (None: torch's own).

    `skew` (K, m, m) is the parameter; of S_k only what lies below the diagonal counts. It starts at zero. `base`
    (K, m, m) is a buffer, B_k. The maps are those of torch.nn.utils.parametrizations.orthogonal, which this class
    does not use: it solves K linear systems in one batched call, which has deadlocked on a CPU, while the batched
    exponential takes 3/4 of the time of a loop at m = 50.

    Forward and backward together, one CPU thread, float32: K = 5, m = 50: exponential 2.5 ms, Cayley 0.6,
    Householder 3.8; K = 10, m = 512: 3140, 166, 2380 ms (benchmarks/rotograd_step.py measures it again). So
    Cayley is always fastest; the default is the exponential, the published map, up to m = 64 and Cayley above.
    ValueError: a size below 1, an unknown map or start, features with fewer than m entries.
    """

    base: Tensor

    def __init__(
        self,
        tasks: int,
        size: int,
        *,
        post: int = 0,
        orthogonal_map: str | None = None,
        init: str = "identity",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"the size of a rotation is a whole number of features, at least 1, got {size!r}")
        if orthogonal_map not in (None, *MAPS):
            raise ValueError(f"orthogonal_map is None or one of {', '.join(MAPS)}; got {orthogonal_map!r}")
        if init not in ("identity", "haar"):
            raise ValueError(f"init is 'identity' or 'haar', got {init!r}")
        self.size, self.post = size, post
        self.orthogonal_map = orthogonal_map or ("matrix_exp" if size <= EXPONENTIAL_UP_TO else "cayley")
        self.skew = nn.Parameter(torch.zeros(tasks, size, size, dtype=dtype, device=device))
        start = torch.eye(size).expand(tasks, size, size) if init == "identity" else haar(tasks, size, generator)
        self.register_buffer("base", start.to(self.skew).clone())
        self._kept: tuple[tuple, Tensor] | None = None

    def matrices(self) -> Tensor:
        """(K, m, m), differentiable with respect to `skew`; where no graph is recorded, computed once per value."""
        key = (self.skew._version, self.base._version, self.skew.dtype, self.skew.device, self.skew.data_ptr())
        if not torch.is_grad_enabled() and self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        with torch.autocast(self.skew.device.type, enabled=False):
            # maps of half precision are not orthogonal enough: they compute in float32
            skew, base = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (self.skew, self.base))
            matrices = base @ orthogonal(skew, self.orthogonal_map)
        if not torch.is_grad_enabled():
            self._kept = key, matrices
        return matrices

    def set(self, rotations: Sequence[Tensor]) -> None:
        """Make R_k = rotations[k]; `skew` goes back to zero. ValueError for what is not in SO(m)."""
        wanted = [torch.as_tensor(R).to(self.base) for R in rotations]
        if len(wanted) != len(self.base):
            raise ValueError(f"expected {len(self.base)} rotations, one per task, got {len(wanted)}")
        for k, R in enumerate(wanted):
            if R.shape != (self.size, self.size):
                raise ValueError(f"rotation {k} must have shape {(self.size, self.size)}, got {tuple(R.shape)}")
            exact = R.double()
            error = (exact.mT @ exact - torch.eye(self.size).to(exact)).abs().max().item()
            if not error <= TOLERANCE:  # NaN too
                raise ValueError(f"rotation {k} is not orthogonal: an entry of RᵀR - I is {error:.2g}")
            if torch.linalg.det(exact) < 0:
                raise ValueError(f"rotation {k} has determinant -1: a reflection; change the sign of one column")
        with torch.no_grad():
            self.base.copy_(torch.stack(wanted))
            self.skew.zero_()

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return rotate(features, self.matrices(), self.post).unbind()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def extra_repr(self) -> str:
        return f"tasks={len(self.base)}, size={self.size}, post={self.post}, orthogonal_map={self.orthogonal_map!r}"


def orthogonal(skew: Tensor, name: str) -> Tensor:
    r"""(K, m, m) -> K matrices in SO(m), of what lies below the diagonal of each S; the identity for S = 0.

    "matrix_exp"  $\exp A$, A = S - S^T;  "cayley"  $(I - A/2)^{-1}(I + A/2)$, one solve after the other;
    "householder"  minus the product of the m reflections at the columns of S with ones on the diagonal.
    """
    lower = skew.tril(-1)
    if name == "householder":
        scale = 2 / (1 + (lower * lower).sum(-2))
        return -torch.linalg.householder_product(lower, scale)
    A = lower - lower.mT
    if name == "matrix_exp":
        return torch.matrix_exp(A)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.stack([torch.linalg.solve(eye - a / 2, eye + a / 2) for a in A])


def haar(count: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """(count, size, size) matrices uniform on SO(size), float64: QR of normal draws, signs as the measure wants."""
    Q, upper = torch.linalg.qr(torch.randn(count, size, size, dtype=torch.float64, generator=generator))
    Q = Q * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    Q[:, :, 0] *= torch.linalg.det(Q).sign()[:, None]
    return Q


def rotate(features: Tensor, R: Tensor, post: int = 0) -> Tensor:
    """(..., d, *post) features, (K, m, m) matrices -> (K, ..., d, *post): the first m features of each, rotated."""
    m, axis = R.shape[-1], features.ndim - 1 - post
    if axis < 0 or features.shape[axis] < m:
        raise ValueError(
            f"rotations of {m} features need as many; features of shape {tuple(features.shape)} have "
            f"{features.shape[axis] if axis >= 0 else 0} in dimension {axis}"
        )
    last = features.movedim(axis, -1)
    turned = (last[..., :m].reshape(-1, m) @ R.mT.to(last.dtype)).view(len(R), *last.shape[:-1], m)
    if last.shape[-1] > m:
        turned = torch.cat([turned, last[..., m:].to(turned.dtype).expand(len(R), *last.shape[:-1], -1)], -1)
    return turned.movedim(-1, axis + 1)


class RotationLayer(nn.Module):
    """One trainable rotation in front of a head: features (..., d, *post) -> the same shape."""

    def __init__(self, size: int, **options: Any):
        super().__init__()
        self.rotation = Rotations(1, size, **options)

    def forward(self, features: Tensor) -> Tensor:
        return self.rotation(features)[0]


class RotatedHeads(nn.Module):
    """A trunk and K heads, each head behind a rotation of its own.

    trunk, heads   modules; heads in a list, or by task in a dict. The list is not changed, all is registered.
    rotation_size  m: the first m features are rotated.
    post_shape     shape that follows the features, (H, W) for maps (B, d, H, W).
    names          of the tasks, where heads are given by task.
    init, orthogonal_map, generator  as in `Rotations`.

    In training mode the graph is cut at the features: what joins it again is the method's to do.
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Sequence[nn.Module] | Mapping[str, nn.Module] | nn.ModuleDict,
        rotation_size: int,
        *,
        post_shape: Sequence[int] = (),
        init: str = "identity",
        orthogonal_map: str | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        by_task: Any = heads if isinstance(heads, (Mapping, nn.ModuleDict)) else {}
        listed: Any = by_task.values() or heads
        self.names, self.heads = [*by_task], nn.ModuleList(listed)
        self.trunk, self.post_shape = trunk, tuple(post_shape)
        like = next(self.parameters(), torch.zeros(()))
        made: dict[str, Any] = {"init": init, "orthogonal_map": orthogonal_map, "generator": generator}
        made |= {"dtype": like.dtype, "device": like.device, "post": len(self.post_shape)}
        self.rotation = Rotations(len(self.heads), rotation_size, **made)
        self._forward: tuple[Tensor, Tensor, Tensor] | None = None  # features, rotations, rotated features

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files hold no graph of a step in progress."""
        return {**self.__dict__, "_forward": None}

    @property
    def rotations(self) -> list[Tensor]:
        """K detached matrices (m, m) in SO(m)."""
        with torch.no_grad():
            return list(self.rotation.matrices().clone())

    def set_rotations(self, rotations: Sequence[Tensor]) -> None:
        """Start from these K matrices. ValueError where one has the wrong shape or is not in SO(m)."""
        self.rotation.set(rotations)

    def model_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of trunk and heads."""
        yield from self.trunk.parameters()
        yield from self.heads.parameters()

    def forward(self, *inputs: Any, **more: Any) -> list[Tensor] | dict[str, Tensor]:
        """The K outputs, in a list or dict as the heads were given.

        In training mode the graph is cut at the features, for `backward`.

        ValueError: the trunk returns no single tensor, or features that do not end in `post_shape`.
        """
        features = self.trunk(*inputs, **more)
        if not isinstance(features, Tensor):
            raise ValueError(f"the trunk must return one tensor that all tasks share, got {type(features).__name__}")
        self._forward = None
        R = self.rotation.matrices()
        if not (self.training and torch.is_grad_enabled()):
            return self._outputs(rotate(features, R, len(self.post_shape)))
        if tuple(features.shape[features.ndim - len(self.post_shape) :]) != self.post_shape:
            raise ValueError(f"features of shape {tuple(features.shape)} do not end in post_shape {self.post_shape}")
        rotated = rotate(features.detach(), R.detach(), len(self.post_shape)).requires_grad_()
        self._forward = features, R, rotated
        return self._outputs(rotated)

    def _outputs(self, rotated: Tensor) -> list[Tensor] | dict[str, Tensor]:
        found = [head(r) for head, r in zip(self.heads, rotated.unbind(), strict=True)]
        return dict(zip(self.names, found, strict=True)) if self.names else found

    def fold_into_heads(self) -> None:
        """Multiply each rotation into its head's first layer: trunk and heads alone then give what this module gave.

        The rotations are the identity afterwards. ValueError, with nothing changed, where a head does not begin with a
        linear or convolutional layer of its own that reads the features.
        """
        fold(self.rotation, [*self.heads], self.post_shape)


def with_rotation_layers(model: MultiTaskModel, rotation_size: int, **options: Any) -> MultiTaskModel:
    """The same trunk and heads with a rotation $R_k$ as an extra layer before head k: the baseline "method + $R_k$".

    $R_k$ belongs to its head: it gets the gradient of its own task's loss, whatever the method does to the trunk.
    options  those of `Rotations`. The modules of `model` are used, not copied.
    """
    like = next(model.parameters())
    options = {"dtype": like.dtype, "device": like.device} | options
    heads = [nn.Sequential(RotationLayer(rotation_size, **options), head) for head in model.heads]
    return MultiTaskModel(model.trunk, heads)


@torch.no_grad()
def fold(rotations: Rotations, heads: Sequence[nn.Module], post_shape: Sequence[int] = ()) -> None:
    """Multiply rotation k into the first layer of head k, $W_k \\leftarrow W_k R_k$; the rotations become the identity.

    Each head is tried on random features. ValueError, with nothing changed, where one does not begin with a linear or
    convolutional layer of its own that reads the features, or does not give what it gave with its rotation before.
    """
    R, m, done = rotations.matrices(), rotations.size, list[tuple[Tensor, Tensor]]()
    for k, head in enumerate(heads):
        layer: Any = next((x for x in head.modules() if [*x.parameters(recurse=False)]), head)
        fits = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and layer.weight.shape[1] >= m
        if fits := fits and all(layer.weight is not weight for weight, _ in done):
            z = torch.randn(2, layer.weight.shape[1], *post_shape).to(layer.weight)
            training, turned = head.training, rotate(z, R, len(post_shape))[k].to(z)
            before = head.eval()(turned)
            done.append((layer.weight, layer.weight.clone()))
            layer.weight[:, :m] = torch.einsum("oi...,ij->oj...", layer.weight[:, :m], R[k].to(z))
            fits = torch.allclose(head(z), before, rtol=1e-3, atol=1e-4 * before.abs().max().item())
            head.train(training)
        if not fits:
            for weight, old in done:
                weight.copy_(old)
            raise ValueError(
                f"head {k} must begin with a linear or convolutional layer of its own that reads the features; its "
                f"first layer with parameters is a {type(layer).__name__}. Or rotate in the forward pass"
            )
    rotations.set(list(torch.eye(m).expand(len(R), m, m)))
