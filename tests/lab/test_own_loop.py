"""The loops of the page *In your own loop*: before and after train alike, and the counts are those of their lines."""

import os
import re
import runpy
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import own_loop
import pytest
import torch
from own_loop import CASES, Case

from mtl_core import Balancer

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples" / "two_processes.py")
SAME = [name for name, case in CASES.items() if "net" in case.after.__code__.co_varnames[:1] and name != "rotograd"]


@pytest.mark.parametrize("name", [name for name in SAME if name not in ("log", "from one batch")])
def test_with_equal_weights_nothing_changes(name, monkeypatch):
    monkeypatch.setattr(own_loop, "Balancer", lambda method, net: Balancer("equal", net))
    case = CASES[name]
    with own_loop.one_process():
        one, other = (case.run(loop, 8) for loop in (case.before, case.after))
    untrained = case.run(lambda net: None, 0)
    pairs = [*zip(one.parameters(), other.parameters(), untrained.parameters(), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-3 if name == "amp" else 1e-5) for a, b, _ in pairs)
    assert all((a - start).abs().max() > 0.005 for a, _, start in pairs)


def test_each_loop_is_of_another_method_than_the_plain_sum():
    """The test above would pass for a loop in which the balancer is never asked."""
    case = CASES["plain"]
    one, other = (case.run(loop, 8) for loop in (case.before, case.after))
    assert not torch.allclose(one.trunk[0].weight, other.trunk[0].weight, atol=1e-3)


def test_a_log_has_weights_and_cosines():
    entries = []
    CASES["log"].run(CASES["log"].after, 2, entries.append)
    assert [sorted(entry) for entry in entries[:2]] == [
        ["weight of first", "weight of largest", "weight of sum"],
        ["cosine of first/largest", "cosine of sum/first", "cosine of sum/largest"],
    ]


def test_recons_second_network_is_split_and_trained():
    trained = []
    given = {"build": own_loop.Network, "batches": own_loop.vectors(4), "train": lambda net, _: trained.append(net)}
    own_loop.recon_after(**given)
    names = [name for name, _ in trained[0].named_parameters()]
    assert len(names) == len([*own_loop.Network().named_parameters()]) + 4 and any(".2.weight" in n for n in names)


def before_it():
    a = 1
    b = 2
    return a + b


def after_it():
    a = 1
    c = 3
    b = 4
    return a + b + c


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_lines_fit_the_page(case):
    assert max(map(len, case.difference())) <= 79


def test_lines_are_counted():
    case = Case("", before_it, after_it)
    assert case.added() == 3
    assert [line[0] for line in case.difference()].count("-") == 2
    assert all(case.added() <= case.target <= 10 for case in CASES.values())


def test_two_processes_end_where_one_does(capfd, monkeypatch):
    """Started as `torchrun` starts them, without the process that it keeps beside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pair = [
        subprocess.Popen(
            [sys.executable, EXAMPLE], env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
    start = partial(torch.distributed.init_process_group, store=torch.distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    runpy.run_path(EXAMPLE)
    found = [
        re.findall(r"loss [\d.]+, sum of the parameters [-\d.]+", text) for text in (*said, capfd.readouterr().out)
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) == 1, said
