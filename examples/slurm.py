"""Workers for `python -m mtl_lab … --dask ADDRESS` as jobs of Slurm.

    python examples/slurm.py --jobs 40 --out scheduler.txt &
    python -m mtl_lab queue qm9:small --dask "$(cat scheduler.txt)"

Start it on a login node, from the checkout; it ends with Ctrl-C, and its
jobs with it. Checkout, data (MTL_DATA) and the store of runs (MTL_RUNS) lie
where every node sees them. A job is one process of one thread. A job that
reaches its time limit or is preempted loses nothing: its run goes on from its
last epoch in another job, and a new one takes its place.
"""

import argparse
import os
import threading
from pathlib import Path

from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
add = parser.add_argument
add("--jobs", type=int, default=10)
add("--hours", type=int, default=4, help="time limit of a job")
add("--memory", default="4GB", help="of a job")
add("--gpu", action="store_true", help="each job asks for one and uses it")
add("--sbatch", nargs="*", default=[], help="as in --sbatch=--partition=long")
add("--interface", help="network that all nodes share, as in ib0")
add("--out", type=Path, default=Path("scheduler.txt"))
chosen = parser.parse_args()

lines = [*chosen.sbatch, "--requeue"]
start = ["export OMP_NUM_THREADS=1"]
start += [f"export MTL_DEVICE={'cuda' if chosen.gpu else 'cpu'}"]
for name in ("MTL_DATA", "MTL_RUNS", "MTL_PRECISION", "PYTHONPATH"):
    if name in os.environ:
        start.append(f"export {name}={os.environ[name]}")
if chosen.gpu:
    lines.append("--gres=gpu:1")

cluster = SLURMCluster(
    cores=1,
    processes=1,
    memory=chosen.memory,
    walltime=f"{chosen.hours}:00:00",
    interface=chosen.interface,
    job_extra_directives=lines,
    job_script_prologue=start,
    # They end shortly before Slurm would end them: new ones can take over.
    worker_extra_args=[
        *("--lifetime", f"{60 * chosen.hours - 5}m"),
        *("--lifetime-stagger", "3m"),
    ],
    scheduler_options={"dashboard_address": ":0"},
)
# A job that ended is replaced.
cluster.adapt(minimum_jobs=chosen.jobs, maximum_jobs=chosen.jobs)
chosen.out.write_text(cluster.scheduler_address)
print(cluster.scheduler_address, flush=True)
threading.Event().wait()
