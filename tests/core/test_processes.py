"""Several processes are one: two gloo processes against the joined batch, and what happens when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_for_processes
from command_line import run
from engine import small_model, small_problem

from mtl_core.methods import METHODS
from mtl_core.training.schedule import Schedule
from mtl_lab.runs import checkpoints, execute, grid, store
from mtl_lab.runs.device import chosen_device, own_device
from mtl_lab.runs.run import Run

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "train_for_processes.py"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """torchrun with two processes of one thread each, its folder, and the two when they have trained all methods."""
    folder = tmp_path_factory.mktemp("two")
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        started = time.time()
        while len(list(folder.glob("pid-*.json"))) < 2:
            assert process.poll() is None, process.communicate()[0]
            assert time.time() - started < 300, "the two processes did not train all methods within five minutes"
            time.sleep(0.1)
        yield process, folder, [json.loads(file.read_text()) for file in folder.glob("pid-*.json")]
    finally:
        process.terminate()  # torchrun ends its two before itself
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def trained(pair):
    """Processes -> method -> weights and losses, two processes in one launch, one here; batches of 33, shared 17 to 16.

    "drawn" -> rank -> what two processes with dropout end with.
    """
    _, folder, _ = pair
    with torch.random.fork_rng():
        train_for_processes.compare(folder, rank=0, world=1)
    return {
        world: {f.stem.partition("-")[2]: torch.load(f, weights_only=True) for f in folder.glob(f"{world}-*.pt")}
        for world in (1, 2, "drawn")
    }


@pytest.mark.parametrize("draws", [False, True])
def test_two_processes_end_where_one_ends_for_every_method(trained, draws):
    assert set(trained[1]) == set(trained[2]) == set(METHODS)
    far = {}
    for name in [name for name, spec in METHODS.items() if spec.random == draws]:
        one, two = trained[1][name], trained[2][name]
        assert (one["parts"], two["parts"]) == ([33], [17]), "each trains on its part of an uneven batch"
        error = max((one["model"][key] - value).abs().max().item() for key, value in two["model"].items())
        alike = two["losses"] == pytest.approx(one["losses"], rel=1e-6)
        if not error < 1e-6 or not alike or one["diverged"] or two["diverged"]:
            far[name] = error
        assert one["moved"] > 1e-3, f"{name} does not train"
    assert not far


def test_a_process_that_dies_ends_the_run_and_a_checkpoint_goes_on(pair):
    process, folder, pids = pair
    (folder / "go").touch()
    started = time.time()
    while not (folder / "c.pt").exists() and process.poll() is None and time.time() - started < 120:
        time.sleep(0.02)
    os.kill(next(p["pid"] for p in pids if p["rank"] == 1), signal.SIGKILL)
    killed = time.time()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.time() - killed < 60
    for p in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(p["pid"], 0)
    state = checkpoints.read(folder / "c.pt")
    assert 1 <= len(state["history"]["epochs"]) < 400 and not list(folder.glob("*.part"))
    epochs = len(state["history"]["epochs"])
    schedule = Schedule(epochs=epochs + 1, batch_size=32, learning_rate=0.05)
    given = small_model(3), small_problem(3, examples=640), "mgda", schedule
    history = checkpoints.fit_from(folder / "c.pt", "three tasks", *given)
    assert history.epochs[:epochs] == state["history"]["epochs"] and len(history.epochs) == epochs + 1
    assert "could not be added up" in output or "SIGKILL" in output or "Signal 9" in output


def test_a_device_is_named_or_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("MTL_DEVICE", raising=False)
    assert chosen_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("MTL_DEVICE", "cuda:1")
    assert (chosen_device(), chosen_device("cpu"), chosen_device("cuda")) == ("cuda:1", "cpu", "cuda")
    for name, said in (("cuda:2", "torch sees 2 GPUs"), ("gpu", "got 'gpu'"), ("mps", "got 'mps'")):
        monkeypatch.setenv("MTL_DEVICE", name)
        with pytest.raises(ValueError, match=said):
            chosen_device()


def test_runs_go_to_the_device_that_was_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("MTL_DEVICE", "cuda")
    monkeypatch.setattr(execute, "fit_from", lambda *_, device, **__: (_ for _ in ()).throw(LookupError(device)))
    config = Run("two_digits", {"profile": "tiny"}, model="lenet")
    for asked, went in ((None, "cuda"), ("cpu", "cpu")):
        with pytest.raises(LookupError, match=went):
            grid.grid([config], store=store.Store(tmp_path), device=asked)


def test_make_results_stops_at_a_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("MTL_DEVICE", "cuda")
    assert run("results", "qm9", "--profile", "tiny") == 2
    assert "cuda was asked for, and torch sees 0 GPUs: set MTL_DEVICE=cpu" in capsys.readouterr().err


def test_each_process_takes_the_gpu_of_its_own_number(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(name) for name in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]


def test_what_the_forward_pass_draws_leaves_the_methods_numbers_alone(trained):
    """Parts of other sizes need other amounts of dropout; a method must draw the same in all processes."""
    first, second = (drawn for _, drawn in sorted(trained["drawn"].items()))
    assert set(first["weights"]) == {name for name, spec in METHODS.items() if spec.random}
    for name, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][name]), f"{name}: the processes train different networks"
    masks, other = first["masks"], second["masks"]
    assert [len(masks[0]), len(other[0])] == [17, 16]
    assert not torch.equal(masks[0], masks[1]), "other masks at the next step"
    assert not torch.equal(masks[0][:16], other[0][:16]), "other masks in the other process"
