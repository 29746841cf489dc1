"""Pictures that one can move, their numbers from mtl_core's own code when the book is built.

    ```{explorable} rotograd      tasks' gradients turn by their rotations until they agree
    ```                           or sam_gs: similarity of two lengths on a dial, and the update on either side of γ

book/_static/explorables.js makes them move; it computes nothing but inner products. Without scripts there is a still.
"""

import base64
import io
import itertools
import json

import checkout  # noqa: F401 (before mtl_core)
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx.util import logging  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402
from torch import nn  # noqa: E402

from mtl_core.conflict import magnitude_similarity  # noqa: E402
from mtl_core.methods import SAMGS, RotateOnly, RotoGrad  # noqa: E402
from mtl_lab.figures import plots  # noqa: E402

log = logging.getLogger(__name__)
COLOURS = [plots.COLOURS[name] for name in ("blue", "red", "green")]
# Where a task's gradient lies between the two outer ones (0 to 1), and its length, for two tasks and for three.
TASKS = ([(0.0, 1.0), (1.0, 2.5)], [(0.0, 1.0), (1.0, 2.5), (0.65, 1.7)])
ANGLES, STEPS, RATE = [30, 60, 90, 120, 150, 170, 180], 20, 0.06
RATIOS = [1, 1.1, 1.2, 1.35, 1.5, 1.75, 2.1, 2.5, 3.2, 4, 5, 6.5, 8, 10]
GAMMAS, GATE = [round(0.05 * k, 2) for k in range(21)], 0.7  # the released configuration has 0.7
BETWEEN = 107.0  # degrees between SAM-GS's two gradients


class Features(nn.Module):
    """A trunk whose parameters are the features, so that its gradient is what the trunk gets."""

    def __init__(self):
        super().__init__()
        self.z = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

    def forward(self, inputs):
        return 1.0 * self.z


def fan(angle, places):
    """Gradients (K, 2), the two outer ones `angle` degrees apart, to both sides of straight up."""
    turned = torch.deg2rad(90 + angle * (0.5 - torch.tensor([place for place, _ in places], dtype=torch.float64)))
    lengths = torch.tensor([[length] for _, length in places], dtype=torch.float64)
    return lengths * torch.stack([turned.cos(), turned.sin()], 1)


def rotations(make, pulls, steps=STEPS, rate=RATE):
    """On the linear losses <pulls_k, r_k>, at each step: the G_k (steps + 1, K, 2), and what the trunk gets."""
    model = make(Features(), nn.ModuleList(nn.Identity() for _ in pulls), 2).double()
    optimizer, seen, gets = torch.optim.SGD(model.parameter_groups(2 * rate), lr=2 * rate), [], []
    model.observers.append(lambda found: seen.append(found.matrix.clone()))
    for _ in range(steps + 1):
        optimizer.zero_grad()
        model.backward([(pull * r).sum() for pull, r in zip(pulls, model(None), strict=True)])
        gets.append(model.trunk.z.grad[0].clone())
        optimizer.step()
    return torch.stack(seen), torch.stack(gets)


def of_rotograd():
    sets = []
    for places, angle in itertools.product(TASKS, ANGLES):
        turned, equal = rotations(RotoGrad, fan(angle, places))
        _, plain = rotations(RotateOnly, fan(angle, places))
        found = {"turned": turned, "equal": equal, "plain": plain}
        sets.append({name: [[round(x, 4) for x in step.flatten().tolist()] for step in v] for name, v in found.items()})
    return {"angles": ANGLES, "steps": STEPS, "counts": [2, 3], "start": ANGLES.index(120), "sets": sets}


def pair(ratio):
    """SAM-GS's two gradients, the shorter first; the longer one has length 1."""
    return fan(BETWEEN, [(0.0, 1 / ratio), (1.0, 1.0)])


def reading(ratio):
    """The gradients, the similarity of their lengths, and SAM-GS's first update on either side of its gate."""
    J = pair(ratio)
    similarity = magnitude_similarity(J.norm(dim=1)).mean().item()
    # At γ = 0 it never equalises; at γ above every similarity it always does.
    equalise = SAMGS(gamma=1.0)(J) if similarity < 1 else J.sum(0)
    found = {"gradients": J, "momentum": SAMGS(gamma=0.0)(J), "equalise": equalise}
    return {"similarity": similarity} | {name: of.tolist() for name, of in found.items()}


def of_sam_gs():
    start = [RATIOS.index(4), GAMMAS.index(GATE)]
    return {"ratios": RATIOS, "gammas": GAMMAS, "start": start, "readings": [reading(ratio) for ratio in RATIOS]}


def arrows(axis, gradients, update, title, name):
    """The gradients of the tasks in colour, the update in black."""
    spread = torch.cat([gradients, update[None], torch.zeros(1, 2)]).double()
    for vector, words, colour, width in [
        (update, name, "black", 3.5),
        *zip(gradients, "12", COLOURS, [2, 2], strict=False),
    ]:
        axis.annotate("", vector.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width})
        about = {"textcoords": "offset points", "color": colour, "ha": "center", "fontsize": 10}
        axis.annotate(
            words if words == name else f"task {words}", vector.tolist(), (14 if vector[0] > 0 else -14, 5), **about
        )
    low, high = spread.min(0).values.tolist(), spread.max(0).values.tolist()
    axis.set_xlim(low[0] - 0.6, high[0] + 0.6)
    axis.set_ylim(low[1] - 0.3, high[1] + 0.5)
    axis.set_aspect("equal")
    axis.set_axis_off()
    axis.set_title(title, fontsize=11)


def still_rotograd():
    figure, axes = plt.subplots(3, 1, figsize=(4.2, 6.6))
    pulls = fan(120, TASKS[0])
    turned, equal = rotations(RotoGrad, pulls, steps := 5)
    same = [equal[0].norm() / (turned[0] / turned[0].norm(dim=1, keepdim=True)).sum(0).norm()] * 2
    units = [t / t.norm(dim=1, keepdim=True) * same[0] for t in (turned[0], turned[-1])]
    arrows(axes[0], turned[0], turned[0].sum(0), "Before: the plain sum", "update")
    arrows(axes[1], units[0], equal[0], "Equal lengths", "update")
    arrows(axes[2], units[1], equal[-1], f"Equal lengths, after {steps} steps of the rotations", "update")
    return figure, (
        "Three pictures of arrows. Before, the gradients of two tasks are 120 degrees apart; one is long, "
        "and the plain sum follows it. With equal lengths the update lies between them and is short. "
        "After the rotations have turned, the gradients are less than a right angle apart and the update is long."
    )


def still_sam_gs():
    figure, axes = plt.subplots(2, 1, figsize=(4.2, 5))
    for axis, ratio in zip(axes, (1.35, 4), strict=True):
        found = reading(ratio)
        side, sign = ("equalise", "below") if found["similarity"] < GATE else ("momentum", "above")
        J, update = (torch.tensor(found[name], dtype=torch.float64) for name in ("gradients", side))
        if update.norm() > 1.3:
            update = update / update.norm() * 1.3
        title = f"Lengths 1 : {ratio:g}, similarity {found['similarity']:.2f}\n{sign} γ = {GATE}: {side}"
        arrows(axis, J, update, title, "update")
    return figure, (
        "Two pictures of two gradients and the update of SAM-GS. Above, the lengths are alike, the similarity is over "
        "the gate and the update leans to the longer gradient. Below, one gradient is four times as long, the "
        "similarity is under the gate and the update halves the angle between the two gradients."
    )


WORDS = {
    "rotograd": "Two tasks ask for different steps of the shared features. Equal lengths give both the same say; "
    "the rotations then turn both gradients towards each other. With scripts this picture moves.",
    "sam_gs": "SAM-GS compares the similarity of the two lengths with γ and takes one of two updates. "
    "With scripts this picture moves.",
}
DATA, STILLS = {"rotograd": of_rotograd, "sam_gs": of_sam_gs}, {"rotograd": still_rotograd, "sam_gs": still_sam_gs}


def html(name):
    """The element for book/_static/explorables.js, with its still and its data."""
    plots.style()
    figure, alt = STILLS[name]()
    figure.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None})
    plt.close(figure)
    image = f'<img alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'
    data = json.dumps(DATA[name](), allow_nan=False, separators=(",", ":"))
    still = f"<figure>{image}<figcaption><p>{WORDS[name]}</p></figcaption></figure>"
    return f'<div class="explorable" id="explore-{name}">{still}<script type="application/json">{data}</script></div>'


class Explorable(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        if name not in DATA:
            log.warning("no explorable %s; there are: %s", name, ", ".join(DATA), location=self.get_location())
            return []
        return [nodes.raw("", html(name), format="html")]


def setup(app):
    app.add_directive("explorable", Explorable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
