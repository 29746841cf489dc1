"""The deletion script: is every statement of the method code needed by some test?

    python tests/mutate.py                                  SAM-GS and the conflict scores
    python tests/mutate.py mtl_core/gradients.py            another file
    python tests/mutate.py mtl_core/methods/sam_gs.py:58    one line of it

Each statement of a file (and each decorator) is deleted in turn, by putting `pass` in its place; then
the tests named in TARGETS run. A deletion that no test notices is a survivor: either a test is missing,
or the statement is not needed, or it changes nothing that can be observed (speed, the text of a rare
message). Write the test, delete the statement, or explain it in EXPLAINED with a reason. The script
ends with 1 where there is a survivor without a reason, or a reason without a survivor.

Docstrings, imports, annotations without value, `pass` and class headers are not deleted. The heavy libraries are
imported once; every deletion then runs in a fork of this process, so that a trial takes seconds. Run
it after a change of `sam_gs.py` or of the scoring, and before a release; a run takes minutes.
"""

import ast
import copy
import gc
import importlib
import importlib.machinery
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 120  # processor seconds of a trial: a deletion may leave an endless loop, a busy machine only looks like one

# file -> (names of the classes and functions to go through, None for all; test files)
TARGETS = {
    "mtl_core/methods/sam_gs.py": (
        None,
        ["core/test_sam_gs.py", "core/test_sam_gs_edges.py", "core/test_methods_sam_gs_variants.py"],
    ),
    "mtl_core/conflict.py": (
        ("cosines", "magnitude_similarity", "ConflictScores"),
        ["core/test_conflict.py", "lab/test_conflict_log.py"],
    ),
    "mtl_core/gradients.py": (None, ["core/test_gradients.py", "core/test_balancer.py"]),
    **{
        f"mtl_core/balancer/{file}.py": (
            None,
            [
                "core/test_balancer.py",
                "core/test_balancer_options.py",
                "core/test_balancer_cases.py",
                "core/test_balancer_cases_networks.py",
                "core/test_gradients.py",
                "core/test_conventions.py",
                "core/test_methods_levels.py",
                "core/test_methods_weightings.py",
            ],
        )
        for file in ("balancer", "layout", "rule", "step")
    },
    **{
        file: (None, ["core/test_recon.py", "core/test_recon_networks.py", "core/test_recon_refusals.py"])
        for file in ("mtl_core/recon.py", "mtl_core/models/forks.py")
    },
    "mtl_core/methods/conventions.py": (None, ["core/test_conventions.py", "core/test_methods_levels.py"]),
    "mtl_core/methods/registry.py": (
        None,
        ["core/test_methods.py", "core/test_conventions.py", "core/test_methods_levels.py"],
    ),
    "mtl_core/methods/backward.py": (None, ["core/test_conventions.py", "core/test_methods_levels.py"]),
    "mtl_core/methods/_state.py": (
        None,
        [
            "core/test_methods_weightings.py",
            "core/test_parity.py",
            "core/test_methods_properties.py",
            "core/test_methods_training.py",
        ],
    ),
    **{
        f"mtl_core/methods/{file}.py": (None, ["core/test_methods.py", "core/test_conventions.py"])
        for file in ("broken", "cagrad", "log_sum", "norm_equalised", "pcgrad", "static")
    },
    **{
        f"mtl_core/methods/{file}.py": (
            None,
            ["core/test_methods_weightings.py", "core/test_parity.py", "core/test_methods_training.py"],
        )
        for file in ("dwa", "famo", "geometric_mean", "gradnorm", "imtl_l", "stch", "uncertainty")
    },
    **{
        f"mtl_core/methods/{file}.py": (
            None,
            [
                "core/test_methods_solvers.py",
                "core/test_parity.py",
                "core/test_methods_properties.py",
                "core/test_methods_training.py",
            ],
        )
        for file in ("_gramian", "aligned_mtl", "fairgrad", "gradvac", "imtl_g", "mgda", "nash_mtl", "upgrad")
    },
    **{
        f"mtl_core/methods/{file}.py": (
            None,
            ["core/test_parity.py", "core/test_methods_properties.py", "core/test_methods_training.py"],
        )
        for file in ("db_mtl", "moco")
    },
    "mtl_core/methods/rotograd.py": (
        None,
        ["core/test_rotograd.py", "core/test_rotograd_edges.py", "core/test_rotograd_properties.py"],
    ),
}
DEFAULT = ("mtl_core/methods/sam_gs.py", "mtl_core/conflict.py")

# (file, first line of the statement) -> why no test can or need notice that it is gone
EXPLAINED: dict[tuple[str, str], str] = {
    ("mtl_core/methods/mgda.py", "continue"): "the loop goes on without it: nothing follows in its body",
    ("mtl_core/methods/upgrad.py", "X = (X - step * (X @ C + Q)).clip(0)"): "speed: the guess decides rounds alone",
    ("mtl_core/methods/upgrad.py", "for _ in range(8):"): "speed: it saves a round",
}


def statements(tree: ast.Module, names=None) -> list[tuple[int, str]]:
    """(line, kind) of all that is deleted: "statement" or "decorator"."""
    found = []
    for top in tree.body:
        if names is not None and getattr(top, "name", None) not in names:
            continue
        for node in ast.walk(top):
            for decorator in getattr(node, "decorator_list", []):
                found.append((decorator.lineno, "decorator"))
            if isinstance(node, ast.stmt) and not _kept(node):
                found.append((node.lineno, "statement"))
    return sorted(set(found))


def _kept(node: ast.stmt) -> bool:
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    bare = isinstance(node, ast.AnnAssign) and node.value is None
    return text or bare or isinstance(node, ast.Import | ast.ImportFrom | ast.Pass | ast.ClassDef)


class _Delete(ast.NodeTransformer):
    def __init__(self, line, kind):
        self.line, self.kind = line, kind

    def visit(self, node):
        if self.kind == "decorator":
            if getattr(node, "decorator_list", None):
                node.decorator_list = [d for d in node.decorator_list if d.lineno != self.line]
        elif isinstance(node, ast.stmt) and node.lineno == self.line and not _kept(node):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def without(tree: ast.Module, line: int, kind: str, path: Path):
    """The code object of the module with that statement gone."""
    return compile(ast.fix_missing_locations(_Delete(line, kind).visit(copy.deepcopy(tree))), str(path), "exec")


def passes(path: Path, code, tests: list) -> bool:
    """Do the tests (files, or pytest's "file::test") pass with `code` as the module at `path`? In a fork."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_run(path, code, tests))
        finally:  # an exception that escapes is a test that did not pass
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _run(path: Path, code, tests) -> int:
    import hypothesis
    import pytest

    signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
    gc.disable()  # a collection would touch, and so copy, every page of the parent
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stdout = sys.stderr = sys.__stdout__ = open(os.devnull, "w")  # noqa: SIM115 (this process ends soon)
    folders = {str(Path(str(test).partition("::")[0]).parent) for test in tests}
    for name, module in list(sys.modules.items()):  # import the package and the tests afresh
        folder = os.path.dirname(getattr(module, "__file__", None) or "")
        if name.partition(".")[0] in ("mtl_core", "mtl_lab") or folder in {*folders, str(ROOT / "tests")}:
            del sys.modules[name]
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self, name):
        return code if Path(self.path).resolve() == path else original(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code
    hypothesis.settings.register_profile("deletion", database=None, derandomize=True)
    hypothesis.settings.load_profile("deletion")
    os.chdir(folders.pop())
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half of a short trial otherwise
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *map(str, tests)]))


def go_through(path: Path, tests: list, names=None, lines=None, root: Path = ROOT) -> list[str]:
    """Delete each statement in turn; the complaints: survivors without a reason, reasons without a survivor."""
    tree, source = ast.parse(path.read_text()), path.read_text().splitlines()
    label = path.relative_to(root).as_posix()
    if not passes(path, compile(tree, str(path), "exec"), tests):
        return [f"{label}: the tests fail without any deletion"]
    trials = [trial for trial in statements(tree, names) if lines is None or trial[0] in lines]
    reasons = {text: why for (file, text), why in EXPLAINED.items() if file == label}
    complaints, survived, start = [], set(), time.monotonic()
    for line, kind in trials:
        text = source[line - 1].strip()
        survives = passes(path, without(tree, line, kind, path), tests)
        note = f"survived: {reasons.get(text, 'NO REASON GIVEN')}" if survives else "killed"
        print(f"{label}:{line:<4} {text[:70]:70} {note}", flush=True)
        if survives:
            survived.add(text)
            if text not in reasons:
                complaints.append(f"{label}:{line} {text}: no test notices that it is gone")
    if lines is None:
        complaints += [f"{label}: EXPLAINED holds {text!r}, which did not survive" for text in set(reasons) - survived]
    print(f"{label}: {len(trials)} deletions, {len(survived)} survivors, {time.monotonic() - start:.0f} s", flush=True)
    return complaints


def preload() -> None:
    """Import once, before the forks, what the package and its tests import."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("cvxpy", "hypothesis", "pytest", "torchjd.aggregation", "torchmetrics", "torchvision"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def main(arguments) -> int:
    complaints = []
    for argument in arguments or DEFAULT:
        file, _, line = argument.partition(":")
        label = Path(file).resolve().relative_to(ROOT).as_posix() if not file.startswith("mtl_core") else file
        if label not in TARGETS:
            raise SystemExit(f"no tests are named for {label!r}; TARGETS in tests/mutate.py has {', '.join(TARGETS)}")
        preload()
        names, tests = TARGETS[label]
        tests = [ROOT / "tests" / test for test in tests]
        complaints += go_through(ROOT / label, tests, names, {int(line)} if line else None)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
