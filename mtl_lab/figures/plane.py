"""Gradients in the plane: arrows, angles, and the directions that harm no task."""

import re

import numpy as np
import torch

from mtl_lab.figures.plots import COLOURS


def plane(axis, J: torch.Tensor, names: str = "g₁g₂g₃", cone: bool = True) -> None:
    """Draw gradients J (K, 2) as arrows from the origin. Green: the vectors u with $Ju \\ge 0$, which harm no task."""
    reach = 1.35 * J.norm(dim=1).max().item()
    if cone:
        angles = torch.linspace(-torch.pi, torch.pi, 2881, dtype=J.dtype)
        ways = torch.stack([angles.cos(), angles.sin()], 1)
        good = (ways @ J.T >= 0).all(1)
        if good.any():
            first = int(torch.argmax((good & ~good.roll(1)).int()))
            wedge = 3 * reach * ways.roll(-first, 0)[: int(good.sum())]
            axis.fill(*torch.cat([wedge, wedge.new_zeros(1, 2)]).T.tolist(), color=COLOURS["green"], alpha=0.3, lw=0)
    low, high = (J.amin(0).clamp(max=0) - 0.25 * reach).tolist(), (J.amax(0).clamp(min=0) + 0.25 * reach).tolist()
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    for g, label in zip(J, re.findall(r"\w[₀-₉]*", names), strict=False):
        arrow(axis, g, label, "black", width=1.2)
    axis.plot(0, 0, "o", color="black", ms=3)


def arrow(axis, vector, label: str = "", colour: str = "black", start=(0, 0), width: float = 1.8, style: str = "-"):
    """Draw an arrow from `start` by `vector`, with its label beyond the tip and to the right."""
    vector, start = np.asarray(vector, dtype=float), np.asarray(start, dtype=float)
    look = {"arrowstyle": "-|>", "color": colour, "lw": width, "ls": style, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", start + vector, start, arrowprops=look)
    if label and (size := np.linalg.norm(vector)) > 0:
        room = 0.05 * (axis.get_xlim()[1] - axis.get_xlim()[0])
        ahead = vector / size
        beside = 0.8 * np.array([ahead[1], -ahead[0]])  # to its right, clear of arrows that start at the tip
        corner = start + vector + room * (ahead + beside)
        axis.annotate(label, corner, color=colour, ha="center", va="center", fontsize=9)


def angle(one: torch.Tensor, other: torch.Tensor) -> float:
    """Degrees between two vectors."""
    return torch.rad2deg(torch.acos((one @ other / one.norm() / other.norm()).clamp(-1, 1))).item()


def slopes(J: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """(K,) the gain of each task along u, in units of the longest gradient: J u / (|u| max |g_k|); negative is harm."""
    return J @ u / u.norm() / J.norm(dim=1).max()
