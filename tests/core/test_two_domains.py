"""The synthetic problem of the dial: what a sign changes, and what it leaves alone."""

import pytest
import torch

from mtl_core import data, models

SMALL = {"train": 4_000, "validation": 100, "test": 4_000}


def test_a_sign_turns_the_second_task_s_labels_around_and_nothing_else():
    plus, minus = (data.load("two_domains", seed=3, sign=sign) for sign in (1, -1))
    for name in ("train", "validation", "test"):
        a, b = getattr(plus, name), getattr(minus, name)
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets[0], b.targets[0])
        assert torch.equal(a.targets[1], -b.targets[1]) and a.targets[1].std() > 0.5
    other = data.load("two_domains", seed=4)
    assert not torch.equal(plus.train.inputs, other.train.inputs)
    with pytest.raises(ValueError, match="sign is 1 or -1, got 0"):
        data.load("two_domains", sign=0)


def test_labels_have_unit_variance_and_the_domains_differ_by_the_margin_alone():
    problem = data.load("two_domains", seed=1, margin=2.0, **SMALL)
    for split in (problem.train, problem.test):
        for target in split.targets:
            assert abs(float(target.mean())) < 0.1 and abs(float(target.std()) - 1) < 0.1
        assert split.inputs.shape == (4_000, 2, 9)
        assert split.inputs[..., -1].unique(dim=0).tolist() == [[2.0, -2.0]]
        z = split.inputs[..., :-1]
        assert abs(float(z.mean())) < 0.05 and abs(float(z.std()) - 1) < 0.05
        assert abs(float((z[:, 0] * z[:, 1]).mean())) < 0.05, "the two inputs are drawn apart"
    near = data.load("two_domains", seed=1, margin=0.5, **SMALL)
    assert torch.equal(near.train.targets[1], problem.train.targets[1]), "labels do not know the domain"


def network(readout, **options):
    return models.build("two_domains", data.load("two_domains").tasks, seed=5, width=16, readout=readout, **options)


def test_readouts_start_alike_and_are_shared_or_not_frozen_or_not():
    shared, independent, trained = (network(readout) for readout in ("shared", "independent", "trained"))
    assert shared.heads[0] is shared.heads[1] and independent.heads[0] is not independent.heads[1]
    assert torch.equal(shared.heads[0].weight, independent.heads[0].weight)
    assert torch.equal(trained.heads[1].weight, independent.heads[1].weight)
    assert not torch.equal(independent.heads[0].weight, independent.heads[1].weight)
    for model, trains in ((shared, False), (independent, False), (trained, True)):
        assert {head.weight.requires_grad for head in model.heads} == {trains}
        assert torch.equal(model.trunk.layers[0].weight, shared.trunk.layers[0].weight)
    with pytest.raises(ValueError, match="readout is shared, independent or trained, one domain a task; got 'private'"):
        network("private")


def test_alone_a_network_reads_its_own_domain():
    tasks, x = data.load("two_domains").tasks, torch.randn(6, 2, 9)
    both = network("independent")(x)
    for k in (0, 1):
        alone = models.build("two_domains", tasks[k : k + 1], seed=5, width=16, readout="independent", domains=[k])
        assert torch.allclose(alone(x)[0], both[k])
    with pytest.raises(ValueError, match="one domain a task"):
        models.build("two_domains", tasks, domains=[0])


def test_to_flip_the_sign_is_to_flip_a_readout_of_symmetric_law():
    """So each task alone has the same law under both signs; only products of the two gradients change their sign."""
    gradients = {}
    for sign in (1, -1):
        problem = data.load("two_domains", seed=2, sign=sign)
        model = network("independent")
        with torch.no_grad():
            model.heads[1].weight.mul_(sign)
        inputs, targets = problem.train.batch(slice(0, 64))
        outputs = model(inputs)
        losses = [task.loss(o, y) for task, o, y in zip(problem.tasks, outputs, targets, strict=True)]
        gradients[sign] = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.trunk.parameters()], retain_graph=True)])
            for loss in losses
        ]
    for k in (0, 1):
        assert torch.allclose(gradients[1][k], gradients[-1][k], atol=1e-7)
