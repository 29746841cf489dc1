"""Make `.venv` hold what requirements.lock says; a second call returns at once.

    python3 .ci/setup.py [--torch default|cpu]

Standard library only, and no syntax newer than Python 3.6: an interpreter that is too old has to get as far
as the sentence that says so. A stamp inside `.venv` holds the hash of everything that decides its contents.
It goes before the first change and comes back after the last one, so that an interrupted set-up is never
taken for a finished one.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
UV = "0.13.9"  # the only place that names it
OLDEST = (3, 11)
GIGABYTES = {"default": 7.0, "cpu": 2.5}  # measured: 6.0 GB with CUDA libraries, and room for the unpacking
ACCELERATOR = re.compile(r"(nvidia-|cuda-|triton\b)")  # what a CPU build of torch does not need


class SetupError(Exception):
    """Set-up cannot go on; the text says what was expected, what was found and what to do."""


def check_interpreter():
    found = sys.version.split()[0]
    if sys.version_info < OLDEST:
        raise SetupError(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; {sys.executable} is Python {found}.\n"
            "Name a newer one that is on this machine, for example: make PYTHON=python3.12 book"
        )
    import importlib.util

    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} (Python {found}) comes without the module venv or ensurepip.\n"
            "On Debian and Ubuntu: apt install python3-venv. Or name another Python: make PYTHON=… book"
        )


def digest(root, torch, version):
    """What decides the contents of `.venv`: lock, dependencies, Python, the kind of torch, uv, the folder."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r"(?ms)^\[(?:build-system|project)[^\n]*\n.*?(?=^\[|\Z)", project)
    parts = [(root / "requirements.lock").read_text(encoding="utf-8"), *dependencies, torch, version, UV]
    return hashlib.sha256("\0".join([*parts, str(root)]).encode()).hexdigest()


def check_disk(folder, torch, exists):
    """A first installation needs room for the whole environment; an update for a part that nobody knows."""
    free, needed = shutil.disk_usage(str(folder)).free / 1e9, GIGABYTES[torch]
    if not exists and free < needed:
        small = "" if torch == "cpu" else f" TORCH=cpu make … needs {GIGABYTES['cpu']:g} GB."
        raise SetupError(f"about {needed:g} GB are needed for .venv; {free:.1f} GB are free. Free some.{small}")


def cpu_lock(text):
    """The lock for CPU-only torch: (other lines with their hashes, ["torch==…", "torchvision==…"])."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    pair = [b.split()[0] for b in blocks if re.match(r"torch(vision)?==", b)]
    if len(pair) != 2:
        raise SetupError(f"requirements.lock must hold torch and torchvision once each, found {pair}")
    rest = [b for b in blocks if not re.match(r"torch(vision)?==", b) and not ACCELERATOR.match(b)]
    return "".join(rest), pair


def environment(python):
    """uv follows its own settings; where there are none, pip's mirror and certificate hold for it too."""
    env = dict(os.environ, VIRTUAL_ENV=str(python.parents[1]))
    for noise in ("PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX"):
        env.pop(noise, None)
    home = pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))  # "~" where no home is
    own = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE", "UV_OFFLINE"} & set(env)
    if not own and not any(p.exists() for p in (home / "uv/uv.toml", pathlib.Path("/etc/uv/uv.toml"))):
        asked = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, env=env)
        settings = dict(re.findall(r"(?m)^(?:global|install|:env:)\.([\w-]+)='(.*)'$", asked.stdout))
        if "index-url" in settings:
            env["UV_DEFAULT_INDEX"] = settings["index-url"]
        if "cert" in settings:
            env.setdefault("SSL_CERT_FILE", settings["cert"])
    return env


def call(command, env, what):
    """Run a command in sight of the user; on failure point at its words and at the usual three causes."""
    try:
        code = subprocess.run([str(c) for c in command], env=env, cwd=str(ROOT)).returncode
    except OSError as error:
        raise SetupError(f"{what}: {command[0]} could not be started ({error}). Delete .venv and try again") from error
    if code:
        raise SetupError(
            f"{what} failed; the reason stands above.\n"
            "- 'could not find a version', 'dns error', 'error sending request', 'timed out': the package\n"
            "  index cannot be reached. Check the network or the proxy (HTTPS_PROXY). Behind a mirror, set\n"
            "  UV_DEFAULT_INDEX or pip's index-url.\n"
            "- 'no space left': free some, or move uv's cache to another disk with UV_CACHE_DIR.\n"
            "- 'hash mismatch': the file served is not the file locked. Do not go round it; open an issue.\n"
            "Nothing is marked as finished: the same command goes on from here."
        )


def install(folder, torch, moved):
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    config = folder / "pyvenv.cfg"
    found = re.search(r"(?m)^version\s*=\s*(\d+\.\d+)", config.read_text()) if config.exists() else None
    if moved or not (found and found.group(1) == here and python.exists()):
        check_disk(folder.parent, torch, False)
        print(f"set-up: .venv for Python {here} (once; about {GIGABYTES[torch]:g} GB)", flush=True)
        base = os.path.realpath(sys.executable) if sys.prefix != sys.base_prefix else sys.executable
        if folder.exists():  # possibly with the interpreter that runs this, hence `base`
            shutil.rmtree(str(folder))
        call([base, "-m", "venv", folder], dict(os.environ), "making .venv")
    env = environment(python)
    uv = python.with_name("uv.exe" if os.name == "nt" else "uv")
    version = ""
    if uv.exists():
        version = subprocess.run([str(uv), "--version"], capture_output=True, text=True).stdout
    if UV not in version.split():
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"]
        call([*pip, f"uv=={UV}"], env, f"installing uv {UV}")
    lock, pair = ROOT / "requirements.lock", []
    if torch == "cpu":
        text, pair = cpu_lock(lock.read_text(encoding="utf-8"))
        lock = folder / "requirements-cpu.lock"
        lock.write_text(text, encoding="utf-8")
    pip = [uv] + ([] if sys.stderr.isatty() else ["--quiet"]) + ["pip"]
    call([*pip, "sync", "--require-hashes", lock], env, "installing requirements.lock")
    if pair:
        call([*pip, "install", "--torch-backend=cpu", *pair], env, "installing CPU-only torch")
    call([*pip, "install", "--no-deps", "--no-build-isolation", "-e", "."], env, "installing mtl_core")


def read_stamp(stamp):
    """What the last set-up left; {} where nothing is there or it is damaged, and then everything is looked at again."""
    if not stamp.exists():
        return {}
    try:
        known = json.loads(stamp.read_text(encoding="utf-8"))
        return {key: known[key] for key in ("digest", "torch", "root") if isinstance(known[key], str)}
    except (ValueError, KeyError, TypeError, RecursionError):
        print("set-up: .venv/set-up.json is damaged; .venv is looked at again", flush=True)
        return {}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="cpu: torch without CUDA; default: the ordinary build; left out: as it was")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark
    folder = ROOT / ".venv"
    stamp = folder / "set-up.json"
    known = read_stamp(stamp)
    torch = parser.parse_args(arguments).torch or known.get("torch", "default")
    try:
        if torch not in GIGABYTES:
            raise SetupError(f"TORCH must be 'cpu', 'default' or be left out, got {torch!r}")
        check_interpreter()
        wanted = digest(ROOT, torch, f"{sys.version_info[0]}.{sys.version_info[1]}")
        if known.get("digest") == wanted:
            return 0
        if stamp.exists():
            stamp.unlink()
        install(folder, torch, known.get("root", str(ROOT)) != str(ROOT))  # scripts in .venv hold its path
        part = stamp.with_suffix(".part")
        part.write_text(json.dumps({"digest": wanted, "torch": torch, "root": str(ROOT)}) + "\n")
        os.replace(str(part), str(stamp))
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"set-up stopped: {where}{error.strerror or error}; make room or give permission", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
