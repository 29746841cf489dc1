"""Checkpoints: damage is noticed, what cannot be read now is not replaced, what is another's is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import small_model, small_problem

from mtl_core.data.problem import Split
from mtl_core.training import Schedule, evaluate
from mtl_lab.files import Damaged
from mtl_lab.runs import checkpoints

SCHEDULE = Schedule(epochs=2, batch_size=16, learning_rate=0.05)
PROBLEM = small_problem(2)


def train(path, schedule=SCHEDULE, of="two tasks", method="sam_gs"):
    model = small_model(2)
    history = checkpoints.fit_from(path, of, model, PROBLEM, method, schedule)
    return [value.clone() for value in model.state_dict().values()], [e["train_loss"] for e in history.epochs]


def same(one, other):
    return one[1] == other[1] and all(map(torch.equal, one[0], other[0]))


def damaged(content: bytes, draw) -> bytes:
    """One random damage: a flipped bit, zeros or noise in a block, a part left out or there twice, another end."""
    at, more = int(draw.integers(len(content))), int(draw.integers(1, 4097))
    before, part, after = content[:at], content[at : at + more], content[at + more :]
    noise = draw.integers(0, 256, len(part), dtype=np.uint8).tobytes()
    bit = bytes([content[at] ^ 1 << int(draw.integers(8))]) + content[at + 1 :]
    return (
        before + [bit, bytes(len(part)) + after, noise + after, after, part + part + after, b"", part][draw.integers(7)]
    )


def test_of_200_damaged_checkpoints_none_is_believed(tmp_path):
    path = tmp_path / "c.pt"
    train(path)
    whole, draw, tried = path.read_bytes(), np.random.default_rng(0), 0
    while tried < 200:
        content = damaged(whole, draw)
        if content != whole:  # zeros where zeros were
            path.write_bytes(content)
            with pytest.warns(UserWarning, match="c.pt is damaged, or none of ours: its training starts over"):
                assert checkpoints.read(path) is None
            tried += 1
    path.write_bytes(whole)
    assert checkpoints.read(path)["of"] == "two tasks"


def test_a_damaged_checkpoint_starts_over_and_a_whole_one_goes_on(tmp_path):
    path, longer = tmp_path / "c.pt", replace(SCHEDULE, epochs=3)
    wanted = train(tmp_path / "undisturbed.pt", longer)
    train(path)
    half = path.read_bytes()
    assert same(train(path, longer), wanted), "goes on from the second epoch"
    path.write_bytes(half[:1000])
    with pytest.warns(UserWarning, match="starts over"):
        assert same(train(path, longer), wanted)


def test_a_checkpoint_is_read_without_running_code(tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return print, ("code has run",)

    checkpoints.write({"of": "two tasks", "history": Payload()}, tmp_path / "c.pt")  # its digest is right
    with pytest.warns(UserWarning, match="none of ours"):
        assert checkpoints.read(tmp_path / "c.pt") is None
    assert "has run" not in capsys.readouterr().out


def test_a_full_disk_keeps_the_old_checkpoint_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoints.write({"of": "a", "history": {}}, path)

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", crash)
    with pytest.raises(OSError, match="No space left on device: '.*c.pt'"):
        checkpoints.write({"of": "b"}, path)
    assert checkpoints.read(path)["of"] == "a" and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_read_now_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    train(path)
    before, read = path.read_bytes(), Path.read_bytes
    for error in (OSError(5, "Input/output error"), torch.OutOfMemoryError("CUDA out of memory")):

        def fail(*arguments, error=error, **more):
            raise error

        monkeypatch.setattr(*(Path, "read_bytes") if isinstance(error, OSError) else (torch, "load"), fail)
        with pytest.raises(type(error)):
            train(path)
        monkeypatch.undo()
        assert read(path) == before


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    """The file of one training would otherwise pass for the result of the next."""
    train(tmp_path / "c.pt", of="seed 0")
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(Damaged, match="c.pt is of another training, seed 0; here seed 7. Give each training a file"):
        train(tmp_path / "c.pt", of="seed 7")
    assert (tmp_path / "c.pt").read_bytes() == before


def test_best_is_the_epoch_of_the_best_validation_score():
    model, schedule = small_model(2), replace(SCHEDULE, epochs=6, learning_rate=0.5)
    history = checkpoints.fit_from(None, "", model, PROBLEM, "equal", schedule)
    scores = [checkpoints.validation_score(e["validation"], PROBLEM.tasks) for e in history.epochs]
    assert history.best["epoch"] == 1 + scores.index(max(scores)) and len(set(scores)) > 1
    assert history.best["validation"] == history.epochs[history.best["epoch"] - 1]["validation"]
    assert history.final["validation"] == history.epochs[-1]["validation"], "the model ends at the last epoch"
    assert evaluate(model, PROBLEM.tasks, PROBLEM.validation) == history.final["validation"]


def test_test_data_are_not_touched_unless_asked():
    class Locked(Split):
        def batch(self, index):
            raise AssertionError("the test split was read")

    locked = replace(PROBLEM, test=Locked(PROBLEM.test.inputs, PROBLEM.test.targets))
    given = small_model(2), locked, "equal", SCHEDULE
    assert "test" not in checkpoints.fit_from(None, "", *given, test=False).final
    with pytest.raises(AssertionError, match="was read"):
        checkpoints.fit_from(None, "", *given)


def test_what_is_not_finite_on_test_data_alone_is_said():
    images = torch.full_like(PROBLEM.test.inputs, float("nan"))
    given = small_model(2), replace(PROBLEM, test=Split(images, PROBLEM.test.targets)), "equal", SCHEDULE
    history = checkpoints.fit_from(None, "", *given)
    assert len(history.epochs) == history.diverged["epoch"] == 2, "it was trained to the end"
    assert history.diverged["message"].startswith("at the end, on test data, not finite: t0, loss; t1, loss")
    assert checkpoints.fit_from(None, "", *given, test=False).diverged is None


@pytest.mark.parametrize("method, options", [("mgda", {}), ("rotograd", {"rotation_size": 2})])
def test_a_run_that_diverges_at_once_is_judged_as_initialised(method, options):
    images = torch.full_like(PROBLEM.train.inputs, float("nan"))
    bad = replace(PROBLEM, train=Split(images, PROBLEM.train.targets))
    history = checkpoints.fit_from(None, "", small_model(2), bad, method, SCHEDULE, method_options=options)
    assert history.diverged["epoch"] == history.diverged["step"] == history.best["epoch"] == 0
    assert history.final == evaluated(small_model(2))


def evaluated(model):
    return {name: evaluate(model, PROBLEM.tasks, PROBLEM.test) for name in ("validation", "test")}
