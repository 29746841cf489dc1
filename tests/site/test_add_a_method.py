"""The page `Add a method`, followed to the letter: its code block, then a run beside the other methods."""

import importlib.util
import pathlib
import re
from dataclasses import replace

import pytest
import torch

from mtl_core import methods
from mtl_lab.runs import grid, run, store

PAGE = pathlib.Path(__file__).resolve().parents[2] / "book" / "add_a_method.md"


@pytest.fixture
def half(tmp_path):
    """The page's first block as a module of its own, as a reader would save it."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    file = tmp_path / "half.py"
    file.write_text(blocks[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("half", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        methods.METHODS.pop("half", None)


def test_it_takes_about_twenty_lines(half):
    code = pathlib.Path(half.__file__).read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_method_returns_what_the_page_says(half):
    matrix = torch.tensor([[1.0, 2.0, 3.0], [3.0, 0.0, -1.0]])
    assert methods.find("half").title == "Half"
    torch.testing.assert_close(methods.make("half")(matrix), torch.tensor([2.0, 1.0, 1.0]))


def test_it_trains_beside_the_others(half, tmp_path):
    sizes = {"profile": "tiny", "train": 512, "validation": 128, "test": 128}
    first = run.Run(
        "multi_fashion_mnist",
        sizes,
        model="lenet",
        schedule={"epochs": 1, "batch_size": 32, "learning_rate": 0.05},
    )
    table = grid.grid([replace(first, method=name) for name in ("equal", "half", "mgda")], store=store.Store(tmp_path))
    equal, ours, other = (list(numbers(record["final"])) for record in table)
    assert len(equal) == 8 and ours[::2] == pytest.approx(equal[::2], rel=1e-4), "half a mean, scaled back to a sum"
    assert ours[1::2] == pytest.approx(equal[1::2], abs=2), "accuracies, %: rounding decides one picture of 128"
    assert other[::2] != pytest.approx(equal[::2], rel=1e-4), "or else this test could not fail"


def numbers(record):
    """The losses and accuracies of a nested record, in its order."""
    for value in record.values():
        if isinstance(value, dict):
            yield from numbers(value)
        else:
            yield value
