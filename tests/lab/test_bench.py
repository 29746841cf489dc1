"""The bench: each form takes a step on a small network, errors are kept, records are read case by case."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mtl_lab.experiments import bench as read

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def here():
    """The modules `forms` and `bench` of the folder of benchmarks."""
    sys.path.insert(0, str(FOLDER))
    try:
        found = {}
        for name in ("forms", "bench"):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
        yield found
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("forms", None), sys.modules.pop("bench", None)


def small(forms):
    """Two tasks on four features."""
    torch.manual_seed(0)
    heads, inputs = nn.ModuleList(nn.Linear(4, 1) for _ in range(2)), torch.randn(8, 3)

    def losses(outputs):
        return [(output - k).pow(2).mean() for k, output in enumerate(outputs)]

    return forms.Case("small", nn.Sequential(nn.Linear(3, 4), nn.Tanh()), heads, inputs, losses)


def gradients(forms, form):
    made = small(forms)
    forms.FORMS[form](made)()
    return [p.grad for p in made.trunk.parameters()]


def test_forms_of_one_rule_leave_one_update(here, monkeypatch):
    """PCGrad of two tasks does not depend on their order, so ours and TorchJD's agree, and so does the plain sum."""
    forms = here["forms"]
    monkeypatch.setattr(forms, "imported_again", lambda: None)  # the peers are not installed here
    wanted = gradients(forms, "ours: PCGrad")
    for form in ("TorchJD, default: PCGrad", "TorchJD, sequential: PCGrad", "TorchJD, autogram: PCGrad"):
        for a, b in zip(wanted, gradients(forms, form), strict=True):
            assert torch.allclose(a, b, atol=1e-6), form
    alike = gradients(forms, "ours, features: PCGrad"), gradients(forms, "ours, features, every 16: PCGrad")
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*alike, strict=True)), "one batch, so the same weights"
    assert all(g is None for g in gradients(forms, "floor")), "the floor throws its gradients away"
    assert all(g.abs().sum() > 0 for form in ("joint", "ours: RotoGrad") for g in gradients(forms, form))


def test_all_cases_are_known_to_the_page(here):
    assert set(here["forms"].CASES) == set(read.CASES)
    made = here["forms"].case("lstm")
    assert made.setting["tasks"] == 8 and len(made.losses(made.outputs(made.trunk(made.inputs)))) == 8


class Pipe:
    """One end of a pipe whose other end says `orders`."""

    def __init__(self, orders=()):
        self.orders, self.sent = list(orders), []

    def recv(self):
        return self.orders.pop(0)

    def send(self, what):
        self.sent.append(what)


def test_a_form_that_fails_says_its_error_and_one_that_runs_its_seconds(here, monkeypatch, tmp_path):
    forms, bench = here["forms"], here["bench"]
    monkeypatch.setattr(forms, "case", lambda name, device: small(forms))
    monkeypatch.setattr(forms, "PEERS", tmp_path / ".venv" / "peers")
    monkeypatch.setattr(bench, "LEAST", 0.0)
    refused, pipe = Pipe(), Pipe([True, True, False])
    bench.serve(refused, "small", "LibMTL: PCGrad", "cpu")
    assert refused.sent == [{"error": "ModuleNotFoundError: the peers are not installed: make bench does it"}]
    bench.serve(pipe, "small", "joint", "cpu")
    told, *seconds = pipe.sent
    assert told["setting"]["title"] == "small" and told["synchronisations"] is None
    assert len(seconds) == 2 and all(s > 0 for s in seconds)
    assert told["peak_bytes"] is None or told["peak_bytes"] >= 0


def test_a_process_that_dies_is_an_error(here):
    class Dead:
        def recv(self):
            raise EOFError

    assert "killed, or out of memory" in here["bench"].answer(Dead())["error"]


def made_up(ours=1.0, torchjd=1.0, floor=0.01, error=False):
    drift = [1 + k / 6 for k in range(12)]  # a machine that becomes slower

    def form(of):
        return {"ratios": [of * x for x in drift], "floor_seconds": [floor] * 12, "peak_bytes": 1, "setting": {}}

    forms = {"floor": form(1.0), "ours: PCGrad": form(ours), "TorchJD, default: PCGrad": form(2 * torchjd)}
    forms["TorchJD, sequential: PCGrad"] = form(torchjd)
    return forms | ({"LibMTL: PCGrad": {"error": "AttributeError: x"}} if error else {})


def test_records_are_put_case_by_case_and_a_slower_step_is_named(tmp_path):
    assert read.load("cpu", tmp_path) == {} and read.slower({}) == []
    read.write("segnet", made_up(error=True), "cpu", root=tmp_path)
    read.write("qm9", made_up(ours=1.04), "cpu", root=tmp_path)
    found = read.load("cpu", tmp_path)
    assert list(found) == ["qm9", "segnet"] and found["segnet"]["LibMTL: PCGrad"]["error"] == "AttributeError: x"
    assert read.slower(found) == [], "four percent more is within the promise"
    read.write("qm9", made_up(ours=1.2), "cpu", root=tmp_path)
    (said,) = read.slower(read.load("cpu", tmp_path))
    assert said.startswith("qm9, PCGrad: 1.20 [1.20, 1.20] times TorchJD, sequential")
    assert read.against(found["segnet"], "ours: PCGrad", "LibMTL: PCGrad") is None
    assert read.load("gpu", tmp_path) == {}


def test_the_overhead_is_what_a_step_costs_beside_its_passes():
    points = [(x, 0.002 + 1.1 * x) for x in (0.005, 0.05, 0.5)]
    assert read.overhead(points) == pytest.approx((0.002, 1.1))
    found = {case: made_up(ours=1.1 + 0.002 / x, floor=x) for case, x in zip("abc", (0.005, 0.05, 0.5), strict=True)}
    middle = 1 + 5.5 / 6  # of the made-up drift
    assert read.fitted(found, "ours: PCGrad") == pytest.approx((0.002 * middle, 1.1 * middle))
    assert read.fitted(found, "LibMTL: PCGrad") is None


def test_memory_that_a_step_keeps_for_the_next_is_counted(here):
    kept = []
    needed = here["bench"].peak(lambda: kept.append(torch.ones(8 * 2**20)), "cpu")
    if needed is None:
        pytest.skip("the system does not say how much memory a process has")
    assert 32e6 < needed < 48e6  # 33.6 MB
