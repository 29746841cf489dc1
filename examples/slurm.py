"""Workers for `python -m mtl_lab … --dask ADDRESS` as jobs of Slurm, by dask-jobqueue.

    python examples/slurm.py --jobs 40 --out scheduler.txt &
    python -m mtl_lab queue qm9:small --dask "$(cat scheduler.txt)"

Start it on a login node, from the checkout; it ends with Ctrl-C, and its jobs with it. Checkout, data (MTL_DATA) and
the store of runs (MTL_RUNS) lie where every node sees them. A job is one process of one thread. A job that reaches its
time limit or is preempted loses nothing: its run goes on from its last epoch in another, and a new job takes its place.
"""

import argparse
import os
import threading
from pathlib import Path

from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--jobs", type=int, default=10)
parser.add_argument("--hours", type=int, default=4, help="time limit of a job")
parser.add_argument("--memory", default="4GB")
parser.add_argument("--gpu", action="store_true", help="each job asks for a GPU, and trains on it")
parser.add_argument("--sbatch", nargs="*", default=[], help="further lines, as in: --sbatch=--partition=long")
parser.add_argument("--interface", help="network that all nodes share, as in ib0; default: the machine's first")
parser.add_argument("--out", type=Path, default=Path("scheduler.txt"))
chosen = parser.parse_args()

passed = [f"export {name}={os.environ[name]}" for name in ("MTL_DATA", "MTL_RUNS", "PYTHONPATH") if name in os.environ]
cluster = SLURMCluster(
    cores=1,
    processes=1,
    memory=chosen.memory,
    interface=chosen.interface,
    walltime=f"{chosen.hours}:00:00",
    job_extra_directives=[*chosen.sbatch, *(["--gres=gpu:1"] if chosen.gpu else []), "--requeue"],
    # Workers end shortly before Slurm would end them, so that new ones can take over.
    worker_extra_args=["--lifetime", f"{60 * chosen.hours - 5}m", "--lifetime-stagger", "3m"],
    job_script_prologue=["export OMP_NUM_THREADS=1", f"export MTL_DEVICE={'cuda' if chosen.gpu else 'cpu'}", *passed],
    scheduler_options={"dashboard_address": ":0"},
)
cluster.adapt(minimum_jobs=chosen.jobs, maximum_jobs=chosen.jobs)  # a job that ended is replaced
chosen.out.write_text(cluster.scheduler_address)
print(cluster.scheduler_address, flush=True)
threading.Event().wait()
