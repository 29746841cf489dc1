"""What the pages of the gradient aggregations share: facts of the registry, library code, solver times."""

import importlib.metadata
import inspect
import re
import textwrap
from collections.abc import Sequence

from mtl_core.methods import FILES, Method, find, make
from mtl_lab import ROOT
from mtl_lab.experiments import solvers
from mtl_lab.figures.plots import markdown_table

REPOSITORY = "https://github.com/conflicting-gradients/conflicting-gradients/blob/main"
LIBRARY = "https://github.com/SimplexLab/TorchJD/blob/v{version}/src/{file}.py"


def extra_passes(spec: Method, tasks: int) -> dict[str, int]:
    """What a step costs beside that of the plain sum: passes through the whole trunk, forward and backward."""
    return {
        "forward": int("losses after the step" in spec.needs),
        "backward": tasks - 1 if spec.level == "parameters" else 0,
    }


def facts(name: str, tasks: int = 3):
    """What the registry says of a method, as a short Markdown list: numbers to choose, cost, supplier, paper."""
    from IPython.display import Markdown

    spec = find(name)
    extra = extra_passes(spec, tasks)["backward"]
    chosen = [f"`{key}` = {value:g} ({source})" for key, (value, source) in spec.defaults.items()]
    presets = [f"`{code}` {', '.join(f'{k} = {v}' for k, v in given.items())}" for code, given in spec.presets.items()]
    lines = [
        _listed("**Defaults**", chosen),
        _listed("**Presets** of published codes", presets),
        f"**Reads** the {' and the '.join(spec.needs)} at the {spec.level}, returns a {spec.native_scale}"
        + ", uses random numbers" * spec.random
        + f". **Costs** {extra or 'no'} more backward passes than the plain sum, K = {tasks}. **Rule from** "
        f"{supplier(name)}, [in this file]({REPOSITORY}/{source_file(name)}). **Source**: {paper(spec)}.",
    ]
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def _listed(title, items):
    """One line for one item, a list of its own for more, nothing for none."""
    return "\n  - ".join([f"{title}:", *items]) if len(items) > 1 else "".join(f"{title}: {item}." for item in items)


def source_file(name: str) -> str:
    """The file of `mtl_core/methods/` that registers the method, from the top of the repository."""
    files = [f"mtl_core/methods/{file}.py" for file in FILES.split()]
    return next(file for file in files if f'"{name}",' in (ROOT / file).read_text(encoding="utf-8"))


def paper(spec) -> str:
    """The paper of a method, linked if it is on arXiv."""
    number = re.search(r",? arXiv (\d{4}\.\d{5})", spec.paper)
    if not number:
        return spec.paper
    return f"[{spec.paper[: number.start()]}](https://arxiv.org/abs/{number.group(1)}){spec.paper[number.end() :]}"


def library_class(name: str):
    """The class of TorchJD that computes the method's rule; None if the rule is `mtl_core`'s own code."""
    bases = [base for part in make(name).modules() for base in type(part).__mro__]
    rules = [base for base in bases if re.match(r"torchjd\.aggregation\._(?!.*(bases|mixins)$)", base.__module__)]
    return next((base for base in rules if base.__name__.endswith("Weighting")), rules[0] if rules else None)


def supplier(name: str) -> str:
    """Who computes the method's rule: TorchJD, with a link, or this book's `mtl_core`."""
    rule = library_class(name)
    return "this book's `mtl_core`" if rule is None else link(rule)


def link(thing) -> str:
    """A class or function of TorchJD as a link to its source in the installed version."""
    version = importlib.metadata.version("torchjd")
    address = LIBRARY.format(version=version, file=thing.__module__.replace(".", "/"))
    return f"[TorchJD {version}, `{thing.__qualname__}`]({address})"


def library_code(thing):
    """The installed code of TorchJD that computes a rule, with a link to its file, as Markdown."""
    from IPython.display import Markdown

    source = textwrap.dedent(inspect.getsource(thing)).rstrip()
    return Markdown(f"```python\n{source}\n```\n{link(thing)}, MIT licence, © Valérian Rey, Pierre Quinton")


def solver_times(problems: Sequence[str]):
    """A Markdown table of the solvers of these problems, timed now: a line each, times by the number of tasks."""
    found = solvers.measured(problems)
    rows = []
    for solver in dict.fromkeys((t["problem"], t["solver"], t["supplier"]) for t in found):
        mine = [t for t in found if (t["problem"], t["solver"], t["supplier"]) == solver]
        times = [f"{t['milliseconds']:.2f}" for t in mine]
        name = f"{solver[0]}: {solver[1]} ({solver[2]})"  # one column, so that the table fits a phone
        rows.append([name, *times, f"{max(abs(t['gap']) for t in mine):.1g}"])
    head = ["solver", *(f"ms, K = {K}" for K in solvers.TASKS), "largest gap"]
    return markdown_table(head, rows, "l" + "r" * (len(head) - 1))
