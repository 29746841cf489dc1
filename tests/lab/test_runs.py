"""Runs: identity, the store, resuming after a kill, grids, and what a record says."""

import json
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import replace

import pytest
import torch
from command_line import run as cli
from filelock import FileLock

from mtl_core.training import loop
from mtl_lab import completion, records
from mtl_lab.experiments.recon import ReconExperiment
from mtl_lab.runs import build, checkpoints, execute, grid, provenance
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

torch.set_num_threads(1)
TINY = Run(
    "multi_fashion_mnist",
    {"profile": "tiny", "train": 256, "validation": 64, "test": 64},
    model="lenet",
    schedule={"epochs": 2, "batch_size": 32, "learning_rate": 0.05},
)
CLOCK = ("seconds", "core_seconds", "provenance")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def outcome(record):
    """A record without what the clock decides."""
    epochs = [{k: v for k, v in e.items() if k != "seconds"} for e in record["epochs"]]
    return {k: v for k, v in record.items() if k not in CLOCK} | {"epochs": epochs}


def test_the_identity_rests_on_the_config_alone():
    assert TINY.identity == "975d37d49b821846"
    reordered = Run.from_dict(dict(reversed(json.loads(TINY.canonical()).items())))
    assert reordered.identity == TINY.identity
    for change in (
        {"seed": 1},
        {"method": "mgda"},
        {"split": ["0"]},
        {"tasks": [0]},
        {"test": False},
        {"observe": {}},
    ):
        assert replace(TINY, **change).identity != TINY.identity
    with pytest.raises(ValueError, match="no field sede"):
        Run.from_dict({"problem": "x", "sede": 3})


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_zero_in_a_training_and_nowhere_else(store, monkeypatch, before):
    """Without it the last epochs of one SAM-GS run took ten times as long as its first."""
    seen, go = [], loop._Loop.run
    monkeypatch.setattr(loop._Loop, "run", lambda *a, **k: seen.append((tiny * 1).item()) or go(*a, **k))
    tiny = torch.tensor(1e-40)
    torch.set_flush_denormal(before)
    try:
        execute.execute(TINY, store)
        after = (tiny * 1).item()
    finally:
        torch.set_flush_denormal(False)
    assert seen == [0.0] and (after == 0.0) is before


def test_a_finished_run_is_not_trained_again(store, monkeypatch):
    first = execute.execute(TINY, store)
    monkeypatch.setattr(execute, "fit_from", lambda *a, **k: pytest.fail("trained again"))
    assert execute.execute(TINY, store) == first
    assert not list(store.folder.glob("*.pt")) and not list(store.folder.glob("*.part"))
    for again in (
        lambda: execute.execute(TINY, store, fresh=True),
        lambda: execute.execute(replace(TINY, seed=1), store),
    ):
        with pytest.raises(BaseException, match="trained again"):
            again()


def test_changed_sources_train_again_and_comments_do_not(tmp_path, monkeypatch):
    file = tmp_path / "mtl_core" / "methods" / "a.py"
    for path in (file, *(tmp_path / name for name in provenance.DECISIVE if name.endswith(".py"))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")

    def digest(text):
        file.write_text(text)
        provenance.source_digest.cache_clear()
        return provenance.source_digest(tmp_path)

    base = digest('def f(x):\n    """One."""\n    return x + 1\n')
    assert digest('def f(x):\n    """Two."""\n    # why\n    return (x +\n            1)\n') == base
    assert digest('def f(x):\n    """One."""\n    return x + 2\n') != base
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: f"{name} of tomorrow")
    assert digest('def f(x):\n    """One."""\n    return x + 1\n') != base, "a library that solves a method's problem"
    provenance.source_digest.cache_clear()


def _train(run, root):
    torch.set_num_threads(1)
    grid.grid([run, replace(run, seed=1)], store=Store(root))


def test_kill_9_loses_no_finished_run_and_the_resumed_run_is_the_same(store):
    long = replace(TINY, schedule={**TINY.schedule, "epochs": 12}, method="sam_gs", convention="samgs")
    # The first seed is done; the second is killed somewhere after its first epoch.
    wanted = [outcome(r) for r in grid.grid([long, replace(long, seed=1)], store=Store(store.root / "undisturbed"))]
    process = multiprocessing.get_context("fork").Process(target=_train, args=(long, store.root))
    process.start()
    deadline = time.time() + 60
    second = store.checkpoint(replace(long, seed=1))
    while not second.exists() and process.is_alive() and time.time() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.get(long) is not None, "the finished run is kept"
    assert store.get(replace(long, seed=1)) is None and second.exists(), "killed in the middle"
    cut = len(checkpoints.read(second)["history"]["epochs"])
    assert 1 <= cut < 12
    assert [outcome(r) for r in grid.grid([long, replace(long, seed=1)], store=store)] == wanted


def test_ctrl_c_says_what_is_kept(store, monkeypatch, capsys):
    real, calls = execute.execute, []

    def interrupted(run, *more):
        calls.append(run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(run, *more)

    monkeypatch.setattr(grid, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.grid(TINY.seeds(range(3)), store=store)
    assert "1 of 3 runs are finished and kept" in capsys.readouterr().err
    assert store.get(TINY) is not None


def test_processes_give_what_one_process_gives(store, tmp_path):
    wanted = grid.grid(TINY.seeds(range(2)), store=store)
    parallel = grid.grid(TINY.seeds(range(2)), workers=2, store=Store(tmp_path / "other"))
    assert [outcome(r) for r in parallel] == [outcome(r) for r in wanted]


def test_a_record_says_where_it_comes_from_without_naming_the_machine(store):
    record = execute.execute(replace(TINY, observe={"restrict": ["0"]}), store)
    text = json.dumps(record)
    assert str(provenance.ROOT) not in text and socket.gethostname() not in text
    assert record["source"]["synthetic"] is False and record["source"]["pairs_sha256"]["train"]
    assert record["provenance"]["torch"] == torch.__version__ and len(record["provenance"]["commit"]) == 40
    assert record["config"] == json.loads(TINY.canonical()) | {"observe": {"restrict": ["0"]}}
    assert record["conflict"]["iterations"] == 16 and record["steps"] == 16
    assert sum(record["conflict"]["restricted"]["histogram"].values()) == 16
    assert record["parameters"]["all"] > record["parameters"]["trunk"] > 0


def test_a_single_task_run_starts_at_the_shared_networks_trunk():
    shared = build.build_model(TINY, build.load_problem(TINY))
    for k in (0, 1):
        run = replace(TINY, tasks=[k])
        problem = build.load_problem(run)
        alone = build.build_model(run, problem)
        assert [t.name for t in problem.tasks] == [["digit"], ["garment"]][k] and len(alone.heads) == 1
        for a, b in zip(alone.trunk.parameters(), shared.trunk.parameters(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="task 2"):
        build.load_problem(replace(TINY, tasks=[2]))


def test_splitting_leaves_the_first_task_where_it_was():
    """The copies draw from a stream of their own: task 0 keeps the shared network's initial weights."""
    run = replace(TINY, model="resnet18", model_options={"width": 4}, split=["conv1", "layer1.0.bn1"])
    problem = build.load_problem(run)
    plain, split = build.build_model(replace(run, split=()), problem), build.build_model(run, problem)
    assert torch.equal(split.trunk.get_submodule("conv1.0").weight, plain.trunk.conv1.weight)
    assert not torch.equal(split.trunk.get_submodule("conv1.1").weight, plain.trunk.conv1.weight)


def test_experiment_rows_differ_only_where_they_should():
    experiment = ReconExperiment("tiny", ["equal", "sam_gs"], seeds=2, layers=3)
    rows = experiment.rows(["bn1", "fc", "conv1"])
    assert list(rows) == [("equal", False), ("equal", True), ("sam_gs", False), ("sam_gs", True)]
    assert [r.seed for r in rows["equal", True]] == [0, 1] and rows["sam_gs", True][0].convention == "samgs"
    kept = rows["equal", False][0].observe["restrict"]
    assert len(kept) == 38 and not set(kept) & {"bn1", "fc", "conv1"}
    assert not experiment.search().test and len(experiment.single_task()) == 4
    record = {"conflict": {"layers": ["a", "b", "c", "d"], "scores": {"-0.1": [2, 5, 2, 7]}}}
    assert experiment.ranking(record) == ["d", "b", "a", "c"] and experiment.split(record) == ["d", "b", "a"]
    refused = {"profile": "huge", "seeds": 0, "epochs": 0, "layers": -1, "threshold": 0.5, "methods": []}
    for wrong in ({name: value} for name, value in refused.items()):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ReconExperiment(**wrong)


def test_results_are_one_sorted_file_and_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))

    class Small(ReconExperiment):
        base = TINY

        def rows(self, split):
            return {("equal", False): TINY.seeds(range(self.seeds))}

        def split(self, record):
            return []

    where = ("small thing", Small("tiny", seeds=1), 1, tmp_path)
    assert completion.complete_grid(*where).endswith("4 trained now."), "a search, two single-task runs, one row"
    file = records.folder("small thing", "tiny", tmp_path) / "runs.jsonl"
    first = file.read_text()
    assert [r["row"] for r in records.load("small thing", "tiny", tmp_path)] == [
        "equal",
        "search",
        "single-task",
        "single-task",
    ]
    monkeypatch.setattr(grid, "execute", lambda *a, **k: pytest.fail("trained again"))
    assert completion.complete_grid(*where).endswith("0 trained now.")
    assert file.read_text() == first
    assert {r["identity"] for r in records.load("small thing", "tiny", tmp_path)} >= {TINY.identity}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["recon_multi_fashion_minst"], "recon_multi_fashion_mnist"),
        (["recon_multi_fashion_mnist", "--profile", "smal"], "small"),
        (["qm9", "--profile", "tiny", "--row", "statics"], "static"),
    ],
)
def test_results_names_what_exists(capsys, words, meant):
    assert cli("results", *words) == 2
    assert f"did you mean {meant!r}?" in capsys.readouterr().err


def test_two_that_write_one_folder_do_not_run_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path))
    monkeypatch.setattr(records, "ROOT", tmp_path / "results")
    monkeypatch.setattr(completion, "complete_table", lambda *_, **__: "done.")
    (tmp_path / "results" / ".locks").mkdir(parents=True)
    with FileLock(tmp_path / "results" / ".locks" / "qm9 tiny.lock"):
        assert cli("results", "qm9", "--profile", "tiny") == 2
        assert "another `make results` is writing it" in capsys.readouterr().err
        assert cli("results", "two_digits", "--profile", "tiny") == 0
    assert cli("results", "qm9", "--profile", "tiny") == 0
    assert capsys.readouterr().out.endswith("results/qm9/tiny: done.\n")


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["rotation_rates"], 20),
        (["conflict_dose"], 5),
        (["recon_multi_fashion_mnist"], 10),
        (["conflict_dose", "--seeds", "2"], 2),
    ],
)
def test_a_grid_has_as_many_seeds_as_it_says(tmp_path, monkeypatch, words, seeds):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path))
    asked = []
    monkeypatch.setattr(completion, "complete_grid", lambda name, plan, workers: asked.append(plan.seeds))
    assert cli("results", *words, "--profile", "tiny") == 0 and asked == [seeds]
