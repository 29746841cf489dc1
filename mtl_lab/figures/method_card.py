"""What the pages of the gradient aggregations share: gradients in the plane, facts of the registry, library code."""

import importlib.metadata
import inspect
import re
import textwrap
from collections.abc import Sequence

from mtl_core.methods import find, make
from mtl_lab.experiments import solvers
from mtl_lab.figures.plots import markdown_table

LIBRARY = "https://github.com/SimplexLab/TorchJD/blob/v{version}/src/{file}.py"


def facts(name: str, tasks: int = 3):
    """What the registry says of a method, as Markdown: defaults with their source, cost, scale, supplier, paper."""
    from IPython.display import Markdown

    row = find(name)
    extra = row.extra_passes(tasks)["backward"]
    chosen = "; ".join(f"`{key}` = {value:g} ({source})" for key, (value, source) in row.defaults.items())
    presets = "; ".join(
        f"`{code}` {', '.join(f'{key} = {value}' for key, value in options.items())}"
        for code, options in row.presets.items()
    )
    lines = [
        f"**Defaults**: {chosen or 'none; the rule has no number to choose'}.",
        f"**Presets** of published codes: {presets}." if presets else "",
        f"**Reads** the {' and the '.join(row.needs)} at the {row.level}"
        + (", draws random numbers" if row.random else "")
        + f", returns a {row.native_scale}. **A step costs** {extra or 'no'} more backward passes through the trunk "
        f"than the plain sum, K = {tasks}.",
        f"**Rule from** {supplier(name)}. **Source**: {paper(row)}.",
    ]
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def paper(row) -> str:
    """Where a method comes from, linked where it is on arXiv."""
    found = re.search(r",? arXiv (\d{4}\.\d{5})", row.paper)
    if not found:
        return row.paper
    return f"[{row.paper[: found.start()]}](https://arxiv.org/abs/{found.group(1)}){row.paper[found.end() :]}"


def library_class(name: str):
    """The class of TorchJD that holds the method's rule, or None where the rule is this book's."""
    bases = [base for part in make(name).modules() for base in type(part).__mro__]
    found = [base for base in bases if re.match(r"torchjd\.aggregation\._(?!.*(bases|mixins)$)", base.__module__)]
    return next((base for base in found if base.__name__.endswith("Weighting")), found[0] if found else None)


def supplier(name: str) -> str:
    found = library_class(name)
    return "this book's `mtl_core`" if found is None else link(found)


def link(thing) -> str:
    """A library's class or function as a link to its source in the version that is installed."""
    version = importlib.metadata.version("torchjd")
    address = LIBRARY.format(version=version, file=thing.__module__.replace(".", "/"))
    return f"[TorchJD {version}, `{thing.__qualname__}`]({address})"


def library_code(thing):
    """The code of TorchJD that computes a rule, as installed here, with a link to its file."""
    from IPython.display import Markdown

    source = textwrap.dedent(inspect.getsource(thing)).rstrip()
    return Markdown(f"```python\n{source}\n```\n{link(thing)}, MIT licence, © Valérian Rey, Pierre Quinton")


def solver_times(problems: Sequence[str]):
    """The solvers of these problems, measured now: a Markdown table."""
    lines = [
        [row["problem"], f"{row['solver']} ({row['supplier']})", row["tasks"], f"{abs(row['gap']):.0e}",
         f"{row['milliseconds']:.2f}"]
        for row in solvers.measured(problems)
    ]  # fmt: skip
    return markdown_table(["problem", "solver", "K", "gap", "milliseconds"], lines, "llrrr")
