"""QM9 as graphs: bonds from positions, features, what is kept; and the network that reads them, against a slow loop."""

import numpy as np
import pytest
import torch

from mtl_core import data, models
from mtl_core.data import DataError, embedded, qm9_files, qm9_graphs
from mtl_core.data.qm9_descriptors import SYMBOLS, select

BOND_LENGTH = 1.4  # angstrom between heavy atoms, unless it is said


def molecule(elements: str, heavy_bonds, lengths=None):
    """A molecule whose distances are made so that exactly the given pairs are bonded: positions in many dimensions.

    `bonds` reads distances only; three dimensions hold the distances of a chain or a star with straight arms.
    """
    place, direction = {0: np.zeros(3)}, {0: []}
    spread = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    for a, b in heavy_bonds:
        free = [v for v in spread if not any((v == used).all() for used in direction[a])]
        step = free[0]
        size = 1.05 if elements[b] == "H" else (lengths or {}).get((a, b), BOND_LENGTH)
        place[b] = place[a] + size * step
        direction[a].append(step)
        direction[b] = [-step]
    numbers = np.array([SYMBOLS[e] for e in elements], np.int8)
    positions = np.array([place[a] for a in range(len(elements))], np.float32)
    return {"atoms": np.array([len(elements)], np.int8), "elements": numbers, "positions": positions}


def orders(made):
    found = qm9_graphs.bonds(made)
    return {tuple(pair): int(order) for pair, order in zip(found["pairs"].tolist(), found["orders"], strict=True)}


CASES = {  # atoms, bonds from the first atom on, lengths -> orders above one
    "methane": ("CHHHH", [(0, 1), (0, 2), (0, 3), (0, 4)], None, {}),
    "carbon dioxide": ("COO", [(0, 1), (0, 2)], None, {(0, 1): 2, (0, 2): 2}),
    "hydrogen cyanide": ("CNH", [(0, 1), (0, 2)], None, {(0, 1): 3}),
    "formic acid": ("COOHH", [(0, 1), (0, 2), (0, 3), (2, 4)], None, {(0, 1): 2}),
    "an anion's shorter bond is double": ("COOH", [(0, 1), (0, 2), (0, 3)], {(0, 1): 1.35, (0, 2): 1.25}, {(0, 2): 2}),
    "nitromethane's nitrogen has four bonds": (
        "CNOOHHH",
        [(0, 1), (1, 2), (1, 3), (0, 4), (0, 5), (0, 6)],
        {(1, 2): 1.2, (1, 3): 1.3},
        {(1, 2): 2},
    ),
    "an isonitrile too": ("CNCHHH", [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5)], None, {(1, 2): 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_orders_fill_valences(case):
    elements, pairs, lengths, raised = CASES[case]
    expected = {tuple(sorted(pair)): raised.get(pair, 1) for pair in pairs}
    assert orders(molecule(elements, pairs, lengths)) == expected


def benzene():
    angle = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    positions = np.concatenate([1.39 * ring, 2.47 * ring]).astype(np.float32)
    return {"atoms": np.array([12], np.int8), "elements": np.repeat([6, 1], 6).astype(np.int8), "positions": positions}


def test_a_ring_gets_one_kekule_form():
    found = orders(benzene())
    assert sorted(found.values()) == [1] * 9 + [2] * 3
    doubles = [atom for pair, order in found.items() if order == 2 for atom in pair]
    assert sorted(doubles) == list(range(6))


def test_valences_of_the_embedded_molecules_are_full_but_for_charges():
    molecules = embedded.arrays("qm9")
    found = qm9_graphs.bonds(molecules)
    ends = np.cumsum(molecules["atoms"].astype(int))
    owner = np.repeat(np.arange(500), found["bonds"])
    total = np.zeros(ends[-1])
    for side in (0, 1):
        np.add.at(total, (ends - molecules["atoms"])[owner] + found["pairs"][:, side], found["orders"])
    full = np.array([{1: 1, 6: 4, 7: 3, 8: 2, 9: 1}[z] for z in molecules["elements"].tolist()])
    wrong = np.unique(np.repeat(np.arange(500), molecules["atoms"])[total != full])
    assert len(wrong) < 15, "only zwitterions, a few of a hundred"
    assert (total == full)[molecules["elements"] == 1].all()


@pytest.fixture(scope="module")
def tiny():
    return data.load("qm9_graphs")


def test_the_graphs_are_the_molecules_of_the_descriptors(tiny):
    plain = data.load("qm9")
    assert tiny.source["molecules_sha256"] == plain.source["molecules_sha256"]
    assert [len(split) for split in (tiny.train, tiny.validation, tiny.test)] == [350, 50, 100]
    assert tiny.train.inputs.shape == (350, 29, 43) and tiny.train.inputs.dtype == torch.float32
    for ours, theirs in zip(tiny.test.targets, plain.test.targets, strict=True):
        assert torch.equal(ours, theirs)
    counts = qm9_graphs.H, tiny.train.inputs[:, :, :5].sum(1)
    described = plain.train.inputs[:, :5]
    for k in range(5):  # z-scores of the same numbers
        assert torch.corrcoef(torch.stack([counts[1][:, k], described[:, k]]))[0, 1] > 0.9999 or k == 4
    assert "graphs" in tiny.source["note"] and tiny.source["name"] == "qm9_graphs"


def test_features_are_those_of_pyg_for_methane():
    made = molecule("CHHHH", [(0, 1), (0, 2), (0, 3), (0, 4)])
    (graph,) = qm9_graphs.graphs(made, np.array([0]), qm9_graphs.bonds(made))
    assert graph[0, :11].tolist() == [0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 4]  # as its documentation prints them
    assert graph[1, :11].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(graph[:5, 11:14], made["positions"])
    assert (graph[:, 14:] == graph[:, 14:].T).all() and graph[:, 14:].sum() == 8 and not graph[5:].any()


def test_bonds_of_the_full_set_are_kept_and_made_again_where_damaged(tmp_path, monkeypatch):
    molecules = select(embedded.arrays("qm9"), np.arange(40))
    expected, made = qm9_graphs.bonds(molecules), []
    monkeypatch.setattr(qm9_graphs, "BONDS_SHA256", qm9_graphs._identity(expected))
    monkeypatch.setattr(qm9_graphs, "CONTENT_SHA256", qm9_files.identity(molecules))
    original = qm9_graphs.bonds
    monkeypatch.setattr(qm9_graphs, "bonds", lambda m: made.append(1) or original(m))
    file = tmp_path / "qm9" / "qm9_bonds.npz"
    for damage in (lambda: None, lambda: file.write_bytes(file.read_bytes()[:-9]), lambda: file.write_bytes(b"")):
        if made:
            damage()
        for _ in range(2):
            found = qm9_graphs.kept_bonds(molecules, tmp_path)
            for key, array in expected.items():
                np.testing.assert_array_equal(found[key], array)
    assert len(made) == 3, "once for each damage, and then from the file"
    content = dict(np.load(file)) | {"orders": np.ones_like(expected["orders"])}
    np.savez(file, **content)
    np.testing.assert_array_equal(qm9_graphs.kept_bonds(molecules, tmp_path)["orders"], expected["orders"])


def test_a_missing_full_set_is_said(tmp_path):
    with pytest.raises(DataError, match="qm9.npz"):
        data.load("qm9_graphs", root=tmp_path, profile="small")


# the network


def slow(trunk, graph):
    """The features of one molecule, pair by pair with a matrix for each, as the papers write it."""
    n = int((graph[:, 5] > 0).sum())
    x = (trunk.embed(graph[:n, :11])).relu()
    for _ in range(trunk.rounds):
        messages = []
        for i in range(n):
            total = torch.zeros(trunk.width)
            for j in range(n):
                if i != j:
                    distance = (graph[i, 11:14] - graph[j, 11:14]).norm()
                    kinds = [float(graph[i, 14 + j] == kind) for kind in (1, 2, 3, 4)]
                    hidden = trunk.edge(torch.cat([torch.tensor(kinds), distance[None]])).relu()
                    total = total + x[j] @ trunk.matrix(hidden).view(trunk.width, trunk.width)
            messages.append(total / max(n - 1, 1))
        x = trunk.update((torch.stack(messages) + trunk.own(x)).relu(), x)
    answer, state = torch.zeros(1, 2 * trunk.width), None
    for _ in range(trunk.steps):
        state = trunk.query(answer, state)
        answer = torch.cat([state[0], (x @ state[0].T).softmax(0).T @ x], 1)
    return trunk.readout(answer).relu()[0]


@pytest.mark.parametrize("groups", [1, 3])
def test_two_products_are_the_sum_over_pairs(tiny, groups):
    model = models.build("qm9_mpnn", tiny.tasks, width=6, edge_width=5, groups=groups)
    atoms = (tiny.train.inputs[:, :, 5] > 0).sum(1)
    some = tiny.train.inputs[atoms.argsort()[[0, 1, 2, -1]]]
    with torch.no_grad():
        expected = torch.stack([slow(model.trunk, graph) for graph in some])
        torch.testing.assert_close(model.features(some), expected, rtol=1e-5, atol=1e-6)
    assert [tuple(out.shape) for out in model(some)] == [(4, 1)] * 11


def test_the_number_and_place_of_atoms_do_not_matter(tiny):
    model = models.build("qm9_mpnn", tiny.tasks, width=6, edge_width=5)
    graph = tiny.train.inputs[0]
    n = int((graph[:, 5] > 0).sum())
    order = torch.cat([torch.randperm(n, generator=torch.Generator().manual_seed(0)), torch.arange(n, 29)])
    other = graph[order].clone()
    other[:, 14:] = other[:, 14:][:, order]
    other[:n, 11:14] += 3
    a, b = model.features(torch.stack([graph, other])).detach()
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_has_the_parameters_of_the_published_network(tiny):
    trunk = models.build("qm9_mpnn", tiny.tasks).trunk
    edge = 5 * 128 + 128 + 128 * 64**2 + 64**2
    gates, query, ends = 2 * (3 * 64 * 64 + 3 * 64), 4 * 64 * (128 + 64) + 2 * 4 * 64, 11 * 64 + 64 + 128 * 64 + 64
    assert sum(p.numel() for p in trunk.parameters()) == edge + 64 * 64 + 64 + gates + query + ends
