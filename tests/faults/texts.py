"""Hostile texts: parameters, parameter cells, variables of make, the command on a page."""

import functools
import json
import shutil
import subprocess
from pathlib import Path

import notebook_tools
from notebook_tools import parameters

from faults import ROOT, Failure, judged, kind, refused
from faults.damage import garbled

PIECES = (
    *(
        "{[]:1}",
        "{{}}",
        "[{[]}]",
        "{(1,):[2]}",
        "-" * 5000 + "1",
        "9" * 400,
        "9" * 5000,
        "1e999",
        "-1e999",
        "nan",
        "1j",
    ),
    *(
        "[" * 300 + "]" * 300,
        "[" * 5000,
        "(1,)",
        "(1,2)",
        "b'x'",
        "{1}",
        "...",
        "None",
        "True",
        "[]",
        "{}",
        "''",
        "0",
        "-1",
    ),
    *(
        "1.5",
        "1e-400",
        "0x10",
        "1_0",
        "٣",
        "two",
        "a b",
        "'a b'",
        "a, b",
        "../../etc/passwd",
        "tiny",
        "nowhere",
        "cuda",
    ),
    *("__import__('os').system('touch executed')", "$(touch executed)", "`touch executed`", "$(shell touch executed)"),
    *(
        "'; touch executed; '",
        '"; touch executed; "',
        "${shell touch executed}",
        "$(file >executed)",
        "$x $$y",
        "%s",
        "\\",
    ),
    *(
        "a seeds=9",
        "b x=1 y=2",
        "'unclosed",
        '"""',
        "lambda: 0",
        "*",
        "#",
        "a#b",
        "x=1",
        "\t",
        "\x7f",
        "\u2028",
        "é",
        "中",
        "\udcff",
        "'\\x00'",
    ),
    *(
        "[None]",
        "[[1,2],[3]]",
        "[[1,2],[3,4]]",
        "[[1,2],[3,4],[5,6]]",
        "[1e999]",
        "['equal']",
        "equal,",
        ",",
        "[1,2",
        "1" * 50,
    ),
)
TYPES = (
    "int",
    "float",
    "str",
    "bool",
    "list",
    "dict",
    "list[int]",
    "list[str]",
    "int | None",
    "float | int",
    "map",
    "",
)
HELPS = (
    "",
    "1 to 41",
    "at least 0",
    "above 0",
    "in (-1, 0]",
    "one of a, b",
    "2 numbers",
    "2 by 2 numbers",
    "1 or more of these",
)


@functools.cache
def pages():
    """(notebook, its parameters) of each page of the book."""
    notebooks = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
    return [(path, parameters.parse(path)) for path in notebooks]


def drawn_text(random, known) -> str:
    words = []
    for _ in range(random.choice((1, 1, 2, 4))):
        name = random.choice(list(known) if random.random() < 0.9 else ["x", "seed", "", "é", "1a", "__class__"])
        value = random.choice(PIECES)
        if name in known and random.random() < 0.6:
            value = str(random.choice((known[name].default, random.randint(-3, 10**6), random.uniform(-2, 2))))
        words.append(f"{name}={value}" if random.random() < 0.97 else value)
    text = " ".join(words)
    return garbled(text, random) if random.random() < 0.2 else text


@kind("parameters", 0.003, 2000)
def parameter_text(random, place):
    """A text after P= for a page of the book: refused, or values that JSON holds and the page's command repeats."""
    path, known = random.choice(pages())
    text = drawn_text(random, known)
    fault = f"P={ascii(text)[:90]} for {path.stem}"
    return "parameters as drawn", _resolved(fault, text, known, path)[0]


def _resolved(fault, text, known, path):
    def resolve():
        return parameters.resolve(parameters.split(text, known), known, path)

    outcome, values = refused(fault, resolve, (parameters.ParameterError,))
    if values is not None:
        if json.loads(json.dumps(values, allow_nan=False)) != values:
            raise Failure(f"{fault}: JSON alters {values}")
        again = parameters.as_text(values, known)
        if parameters.resolve(parameters.split(again, known), known, path) != values:
            raise Failure(f"{fault}: the page's command says {again!r}, which is not {values}")
    return outcome, values


@kind("parameter cells", 0.005, 1000)
def parameter_cell(random, place):
    """A cell of parameters as somebody might write it, in Python or not: read, or refused by the notebook's name."""
    lines = []
    for number in range(random.choice((1, 2, 5))):
        hostile = random.random() < 0.4
        type_, value = random.choice(
            (("int", 1), ("float", 0.5), ("str", "'a'"), ("list", "[1, 2]"), ("list[str]", "['a']"))
        )
        name, type_, value = (
            (f"a{number}", random.choice(TYPES), random.choice(PIECES)) if hostile else (f"a{number}", type_, value)
        )
        line = f"{name}: {type_} = {value}  # {random.choice(HELPS)}"
        lines.append(
            random.choice((line, f"{name} = {value}", "import os", "class: int = 1", "(")) if hostile else line
        )
    cell = "\n".join(lines)
    if random.random() < 0.2:
        cell = garbled(cell, random)
    path = place / "page.ipynb"
    book = {"cells": [{"cell_type": "code", "source": cell, "metadata": {"tags": ["parameters"]}}], "metadata": {}}
    path.write_text(json.dumps(book), encoding="utf-8")
    fault = f"parameters cell {ascii(cell)[:120]}"
    outcome, known = refused(fault, lambda: parameters.parse(path), (parameters.ParameterError,))
    if known:
        outcome = _resolved(fault, drawn_text(random, known), known, path)[0]
    return "a cell as drawn", outcome


@functools.cache
def _variables():
    words = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("GIVEN := "))
    return words.split()[2:]


TARGETS = {  # target -> variables that a command gets
    **{"run": ["PAGE", "P"], "results": ["EXPERIMENT", "PROFILE", "SEEDS"], "again": ["EXPERIMENT", "ROW", "SEED"]},
    **{
        "setup": ["TORCH", "PYTHON"],
        "serve": ["PORT"],
        "wobble": ["NOTEBOOKS", "JOBS"],
        "queue": ["QUEUE", "WORKERS"],
        "help": [],
    },
}


def stubs(place: Path) -> None:
    """A Makefile whose programs print their arguments, each between two lines that nobody would write."""
    (place / "bin").mkdir()
    stub = place / "bin" / "python"
    stub.write_text('#!/bin/sh\nfor a; do printf "<<<%s>>>" "$a"; done\n')
    stub.chmod(0o755)
    (place / "setup").symlink_to(stub)
    shutil.copy(ROOT / "Makefile", place)
    (place / "_build" / "html").mkdir(parents=True)
    (place / "_build" / "html" / "index.html").touch()


@kind("variables of make", 0.06, 400)
def make_variable(random, place):
    """A variable on make's command line or in the environment: handed on as it is, and never executed."""
    import os

    stubs(place)
    target = random.choice(list(TARGETS))
    name = random.choice(TARGETS[target] or _variables()) if random.random() < 0.8 else random.choice(_variables())
    values = [piece for piece in PIECES if len(piece) < 1000 and "\x00" not in piece]
    value = random.choice([piece for piece in values if "$" in piece] if random.random() < 0.5 else values)
    origin = random.choice(("on the command line", "in the environment"))
    fault = f"{name}={ascii(value)[:60]} {origin}, make {target}"
    command = ["make", "-s", "BOOT=bin/python", "VENV=bin", target]
    given = {k: v for k, v in os.environ.items() if k not in _variables() and not k.startswith("MAKE")}
    if origin == "on the command line":
        command.append(f"{name}={value}")
    else:
        given[name] = value
    encode = [word.encode(errors="surrogateescape") for word in command]
    done = subprocess.run(encode, cwd=place, env=given, capture_output=True, timeout=60)
    said = done.stdout.decode(errors="surrogateescape")
    if (place / "executed").exists():
        raise Failure(f"{fault}: it was executed")
    words = name in ("NOTEBOOKS", "QUEUE") or not value.strip()  # several words are meant, and none
    handed_on = not value or value in said or (words and all(word in said for word in value.split()))
    if name in TARGETS[target] and name != "PYTHON" and done.returncode == 0 and not handed_on:
        raise Failure(f"{fault}: altered, {said[-300:]!r}")
    return f"{name} {origin}", judged(fault, done.returncode, done.stderr.decode(errors="replace"))


@kind("the command on a page", 0.06, 200)
def command_on_a_page(random, place):
    """What a run card says, typed into a shell, gives the same parameters."""
    stubs(place)
    path = notebook_tools.notebook(place / "page.ipynb")
    known = parameters.parse(path)
    strings = [piece for piece in PIECES if len(piece) < 1000 and piece.isprintable()]
    values = {"title": random.choice(strings), "methods": random.choices(strings, k=2), "seeds": random.randint(0, 99)}
    text = parameters.as_text(values, known)
    command = notebook_tools.page.command("page", text)
    fault = f"{command[:150]}"
    shell = f'cd {place} && make() {{ command make -s BOOT=bin/python VENV=bin "$@"; }}; {command}'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    if (place / "executed").exists():
        raise Failure(f"{fault}: it was executed")
    words = done.stdout.split("<<<--parameters>>><<<")
    got = words[1].split(">>><<<")[0].split(">>>")[0] if len(words) > 1 else ""
    if parameters.resolve(parameters.split(got, known), known, path) != values:
        raise Failure(f"{fault}: it gives {got!r}, wanted {values}; {done.stderr[-300:]}")
    return "a title and methods as drawn", judged(fault, done.returncode, done.stderr)
