"""The message-passing network of the papers' QM9 tables, in plain torch and several times as fast as PyG's.

Edge-conditioned messages, a gated update and an order-free readout, as in Gilmer et al. (ICML 2017), with the sizes of
Nash-MTL's code (Navon et al., ICML 2022). `tests/core/test_data_qm9_graphs.py` holds it against a slow loop.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel

FEATURES, ORDERS = 11, 4  # of an atom; of a bond: single, double, triple, aromatic
POSITION = slice(FEATURES, FEATURES + 3)
BONDS = FEATURES + 3  # the first of the columns that hold the orders of an atom's bonds


class MessagePassing(nn.Module):
    r"""The trunk: molecules (B, M, 14 + M), as `data.qm9_graphs.graphs` makes them, to features (B, width).

    Atoms start at $x_i = \mathrm{relu}(W_0 f_i)$. In each of three rounds atom i takes the mean over all other atoms
    of $A(e_{ij})\, x_j$, where the network A makes a matrix of the pair's bond and distance; a gated recurrent unit
    updates $x_i$. Set2Set reads the atoms out in three steps. Parameters are PyG's, under other names.

    A's last layer is linear in its `edge_width` hidden units h, so the sum over atoms is two matrix products,
    $\sum_j A(e_{ij}) x_j = \sum_{jk} h_{ijk} (W_k x_j)$, and no matrix of a pair is ever made. An atom paired with
    itself has distance 0 and no bond: what it adds is the same h for all atoms, and is taken off again.

    groups  a batch is cut into so many parts by the size of the molecules, which saves padding.
    """

    def __init__(self, width: int = 64, edge_width: int = 128, rounds: int = 3, steps: int = 3, groups: int = 4):
        super().__init__()
        self.width, self.rounds, self.steps, self.groups = width, rounds, steps, groups
        self.embed = nn.Linear(FEATURES, width)
        self.edge = nn.Linear(ORDERS + 1, edge_width)
        self.matrix = nn.Linear(edge_width, width * width)
        self.own = nn.Linear(width, width)
        self.update = nn.GRUCell(width, width)
        self.query = nn.LSTMCell(2 * width, width)
        self.readout = nn.Linear(2 * width, width)

    def forward(self, molecules: Tensor) -> Tensor:
        sizes = (molecules[:, :, FEATURES - 6] > 0).sum(1)  # the atomic number; padding has none
        order = sizes.argsort()
        parts = [self._part(molecules[part], sizes[part]) for part in order.chunk(self.groups)]
        return torch.cat(parts)[order.argsort()]

    def _part(self, molecules: Tensor, sizes: Tensor) -> Tensor:
        most = int(sizes.max())
        atoms = molecules[:, :most]
        there = (torch.arange(most, device=atoms.device) < sizes[:, None]).unsqueeze(-1).to(atoms.dtype)  # B, M, 1
        place = atoms[..., POSITION]
        distance = (place[:, :, None] - place[:, None]).square().sum(-1).sqrt()
        bond = atoms[..., BONDS : BONDS + most].round()
        edges = torch.stack([*((bond == n).to(atoms.dtype) for n in range(1, ORDERS + 1)), distance], -1)
        hidden = self.edge(edges).relu().flatten(2)  # B, M, M · edge_width
        x = self.embed(atoms[..., :FEATURES]).relu() * there
        for _ in range(self.rounds):
            message = self._messages(x, hidden, (sizes - 1).clamp(min=1)[:, None, None])
            new = self.update((message + self.own(x)).relu().flatten(0, 1), x.flatten(0, 1))
            x = new.view_as(x) * there
        return self._set2set(x, there)

    def _messages(self, x: Tensor, hidden: Tensor, others: Tensor) -> Tensor:
        """The mean over the other atoms (B, M, width), of x (B, M, width)."""
        width, bias = self.width, self.matrix.bias.view(self.width, self.width)
        by_unit = self.matrix.weight.view(width, width, -1).transpose(1, 2).reshape(width, -1)
        turned = x @ by_unit  # B, M, edge_width · width
        itself = (turned.unflatten(2, (-1, width)) * self.edge.bias.relu()[:, None]).sum(2)
        plain = x @ bias
        summed = hidden @ turned.view(len(x), -1, width) - itself + plain.sum(1, keepdim=True) - plain
        return summed / others

    def _set2set(self, x: Tensor, there: Tensor) -> Tensor:
        answer = x.new_zeros(len(x), 2 * self.width)
        state = answer[:, : self.width], answer[:, self.width :]
        for _ in range(self.steps):
            state = self.query(answer, state)
            fit = (x @ state[0].unsqueeze(-1)).masked_fill(there == 0, float("-inf"))
            answer = torch.cat([state[0], (fit.softmax(1) * x).sum(1)], 1)
        return self.readout(answer).relu()


def qm9_mpnn(outputs: Sequence[int], width: int = 64, edge_width: int = 128, **options) -> MultiTaskModel:
    """Message passing on molecules, one linear head per task; options as in `MessagePassing`."""
    return MultiTaskModel(MessagePassing(width, edge_width, **options), [nn.Linear(width, n) for n in outputs])
