"""Grids on a Dask cluster of this machine: a worker is killed in mid-run, one raises, one has other sources."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import pytest
from command_line import run as cli
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from test_runs import TINY, outcome

from mtl_lab import completion, experiments, records
from mtl_lab.runs import grid, processes
from mtl_lab.runs.store import Store

ROOT = Path(__file__).resolve().parents[2]
LONG = replace(TINY, schedule={**TINY.schedule, "epochs": 16})


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread, forked from a server that has imported once what a training imports."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "mtl_lab.runs.execute", "torch._dynamo"])
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as made:
            yield made


@dataclass
class Five:
    """A grid: one run that is long enough to be killed in its middle, and four short ones."""

    profile: str = "tiny"
    seeds: int = 1

    def plan(self, records):
        return {"long": [LONG], "short": TINY.seeds(range(1, 5))}


def test_killed_workers_lose_nothing(cluster, tmp_path, monkeypatch, capsys):
    """The command finishes, though both are killed in mid-run: their runs go on, from checkpoints, in new ones."""
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(processes, "scheduler", None)
    monkeypatch.setitem(experiments.GRIDS, "five", Five)
    complete = completion.complete_grid
    monkeypatch.setattr(completion, "complete_grid", lambda *a: complete(*a, root=tmp_path))
    store, unfinished = Store(), []
    with Client(cluster) as client:
        (alone,) = grid.grid([LONG], store=Store(tmp_path / "undisturbed"), client=client)

    def kill():
        while not store.checkpoint(LONG).exists():
            time.sleep(0.002)
        for worker in cluster.workers.values():
            os.kill(worker.pid, signal.SIGKILL)
        unfinished.append(store.get(LONG) is None)

    threading.Thread(target=kill, daemon=True).start()
    assert cli("results", "five", "--profile", "tiny", "--dask", cluster.scheduler_address) == 0
    assert unfinished == [True], "killed in the middle"
    assert capsys.readouterr().out.endswith("5 records, 5 trained now.\n")
    assert {r["row"]: r["config"]["seed"] for r in records.load("five", "tiny", tmp_path)} == {"long": 0, "short": 4}
    assert outcome(store.get(LONG)) == outcome(alone)


tried = []  # in a worker's memory


def fails_first(run, *more):
    tried.append(run)
    if len(tried) == 1:
        raise OSError("the network drive was gone for a moment")
    return real(run, *more)


real = grid.execute


def put(function):
    """On a worker: what trains a run there."""
    grid.execute = function


def test_a_run_that_raised_is_tried_again_and_no_worker_trains_with_other_sources(cluster, tmp_path):
    with Client(cluster) as client:
        client.run(put, fails_first)
        try:
            (record,) = grid.grid([TINY], store=Store(tmp_path / "raised"), client=client)
        finally:
            client.run(put, real)
        assert record["identity"] == TINY.identity
        other = Store(tmp_path / "other")
        other.folder = other.root / "another commit"
        with pytest.raises(RuntimeError, match="needs the checkout"):
            grid.grid([TINY], store=other, client=client)


def test_where_no_scheduler_answers_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(processes, "scheduler", "tcp://127.0.0.1:1")
    with pytest.raises(OSError, match="127.0.0.1:1"), dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        grid.grid([TINY])


FAKE = """#!/bin/sh
# A job starts at once, on this machine. What was submitted is kept.
n=$(ls "{folder}" | grep -c job); cp "$1" "{folder}/job$n.sh"
setsid sh "{folder}/job$n.sh" > "{folder}/job$n.out" 2>&1 &
echo $! >> "{folder}/pids"
echo "Submitted batch job $((100 + n))"
"""


def test_the_recipe_for_slurm_starts_workers_with_one_thread_and_the_store(tmp_path):
    """Against an `sbatch` that runs a job's script here. What the job would train, the other tests train."""

    def surroundings():  # of a run on a worker; importing the laboratory takes seconds
        there = importlib.util.find_spec("mtl_lab") is not None
        return os.environ["MTL_DEVICE"], os.environ["MTL_RUNS"], there

    for name, text in {"sbatch": FAKE.format(folder=tmp_path), "scancel": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MTL_RUNS": str(tmp_path / "runs")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = tmp_path / "scheduler.txt"
    command = [sys.executable, str(ROOT / "examples" / "slurm.py"), "--jobs", "1", "--hours", "2", "--out", str(out)]
    command += ["--interface", "lo" if sys.platform == "linux" else "lo0"]
    recipe = subprocess.Popen(
        [*command, "--sbatch=--partition=long"], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.time() + 120
        while not (out.exists() and out.read_text()):
            assert recipe.poll() is None and time.time() < deadline, "no scheduler"
            time.sleep(0.05)
        with Client(out.read_text(), timeout=60) as client:
            client.wait_for_workers(1, timeout=120)
            assert list(client.nthreads().values()) == [1]
            assert list(client.run(surroundings).values()) == [("cpu", str(tmp_path / "runs"), True)]
        script = (tmp_path / "job0.sh").read_text()
    finally:
        recipe.kill()
        recipe.wait()
        for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGTERM)
    for line in ("#SBATCH --partition=long", "#SBATCH --requeue", "#SBATCH -t 2:00:00", "export MTL_DEVICE=cpu"):
        assert line in script
