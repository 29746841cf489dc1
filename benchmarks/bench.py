"""A training step in every form, ours and the peers', against one forward pass and K backward passes of the trunk.

    make bench [P="--cases qm9,lstm --rounds 12"]
    python benchmarks/bench.py [--cases NAME,NAME] [--forms TEXT] [--rounds 12] [--device cuda] [--record] [--again]

Each form has a process of its own, with one thread, its own copy of the network and the batch. The processes take turns
within each round, and ratios to that round's floor count, since such machines drift. Each process keeps the memory
that it frees: otherwise the allocator's luck decides up to a third of a convolutional network's step. `--record` writes
each case, as soon as it is measured, to results/step_time/cpu or /gpu; cases that are there are left out, unless
`--again`. On a quiet machine all cases take half an hour, half of it the CNN with 40 tasks. A form that fails is
recorded with its error.
"""

import argparse
import contextlib
import ctypes
import gc
import sys
import time
import traceback
import warnings
from statistics import median

import torch

from mtl_lab.experiments import bench
from mtl_lab.runs import processes

WARM_UP = "narrow8"  # a small case, on which each form takes one step before its memory is measured
LEAST = 0.02  # seconds that one measurement lasts at least: as many steps as that takes


def memory(field):
    """Bytes that /proc/self/status says of this process; None where there is no such file."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def peak(step, device):
    """Bytes that a form's first step needs beyond what was there before it; None where the system does not say.

    The first, since what a step keeps for the next one, such as the Jacobian, would not be counted in a later one.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc has it: pages that are free go back to the system
        ctypes.CDLL(None).malloc_trim(0)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
    except OSError:
        return None
    before = memory("VmRSS:")
    step()
    return max(0, memory("VmHWM:") - before)


def synchronisations(step, device):
    """How often the host waits for the GPU in a step; None on a CPU."""
    if device == "cpu":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return round(sum("synchroniz" in str(warning.message) for warning in caught) / getattr(step, "steps", 1), 2)


def timed(step, times, device):
    """Seconds of a step, of that many calls in a row; some forms take several steps in a call."""
    start = time.perf_counter()
    for _ in range(times):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times / getattr(step, "steps", 1)


def serve(pipe, name, form, device):
    """A form's process: first what it needs, or its error; then seconds of a step, each time it is asked for them."""
    import forms  # in this process alone: a peer changes what it imports

    torch.set_num_threads(1)
    processes.keep_memory()
    warnings.filterwarnings("ignore")
    try:
        with contextlib.suppress(Exception):  # libraries load what they need on a small network, or say below why not
            forms.fresh(WARM_UP, form, device)[0]()
        step, setting = forms.fresh(name, form, device)
        needed = peak(step, device)
        told = {"setting": setting, "peak_bytes": needed, "synchronisations": synchronisations(step, device)}
        times = max(1, round(LEAST / timed(step, 1, device) / getattr(step, "steps", 1)))
    except Exception as error:
        words = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        pipe.send({"error": words.replace(str(forms.PEERS.parents[1]), "…")[:300]})
        return
    pipe.send(told)
    while pipe.recv():
        pipe.send(timed(step, times, device))


def measure(name, chosen, rounds, device="cpu"):
    """Form -> record of a case, without provenance."""
    context = processes.worker_context()
    pipes, workers, told, seconds = {}, [], {}, {}
    try:
        for form in chosen:
            pipes[form], end = context.Pipe()
            workers.append(context.Process(target=serve, args=(end, name, form, device), daemon=True))
            workers[-1].start()
            end.close()  # so that a process that dies is noticed
            told[form] = answer(pipes[form])  # one after the other: building takes memory and time
        ran = [form for form in chosen if "error" not in told[form]]
        for number in range(1 + rounds):  # the first warms up
            for form in ran:
                with contextlib.suppress(OSError):  # the answer says what happened
                    pipes[form].send(True)
                took = answer(pipes[form])
                if isinstance(took, dict):
                    told[form] = took
                elif number:
                    seconds.setdefault(form, []).append(took)
            ran = [form for form in ran if "error" not in told[form]]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    floors = seconds["floor"]
    return {
        form: of
        if "error" in of
        else {**of, "floor_seconds": floors, "ratios": [a / b for a, b in zip(seconds[form], floors, strict=True)]}
        for form, of in told.items()
    }


def answer(pipe):
    try:
        return pipe.recv()
    except EOFError:
        return {"error": "its process ended without a word: killed, or out of memory"}


def show(forms):
    print(f"{'form':<32}{'ratio':>8}{'interval':>18}{'ms':>10}{'MB':>8}")
    for form, of in forms.items():
        if "error" in of:
            print(f"{form:<32}{of['error']}")
            continue
        middle = median(of["ratios"])
        ends = "{1:.2f} to {2:.2f}".format(*bench.spread(of["ratios"])) if len(of["ratios"]) >= 10 else ""
        size = "" if of["peak_bytes"] is None else f"{of['peak_bytes'] / 1e6:.0f}"
        print(f"{form:<32}{middle:>8.2f}{ends:>18}{1000 * middle * median(of['floor_seconds']):>10.1f}{size:>8}")


def main(words=None):
    import forms

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(bench.CASES), help="with commas between")
    parser.add_argument("--forms", default="", help="only forms that contain one of these, with commas between")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true", help="write each case, when all forms were timed")
    parser.add_argument("--again", action="store_true", help="also cases that have records")
    chosen = parser.parse_args(words)
    profile = "cpu" if chosen.device == "cpu" else "gpu"
    wanted = [form for form in forms.FORMS if any(part in form for part in ["floor", *chosen.forms.split(",")])]
    if chosen.record and (len(wanted) < len(forms.FORMS) or chosen.rounds < 10):
        parser.error("a record has every form and at least ten rounds")
    for name in chosen.cases.split(","):
        if chosen.record and not chosen.again and name in bench.load(profile):
            print(f"{name}: recorded already")
            continue
        start, found = time.monotonic(), measure(name, wanted, chosen.rounds, chosen.device)
        print(f"\n{found['floor']['setting']['title']}, {chosen.device}, {time.monotonic() - start:.0f} s")
        show(found)
        sys.stdout.flush()
        if chosen.record:
            bench.write(name, found, profile, chosen.device)


if __name__ == "__main__":
    main()
