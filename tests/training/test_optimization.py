from __future__ import annotations

import logging.handlers

import pytest
import timm.optim
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.recipe.sections import OptimizerRecipe, ScheduleRecipe
from coterie.training.optimization import build_optimizer, build_schedule, require_fitting_state


def optimizer_recipe(**changes):
    """A section without anything that is chosen by the data: the papers' SGD."""
    settled = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "exclude_norm_and_bias": False}
    return OptimizerRecipe(**settled | changes)


def schedule_recipe(**changes):
    return ScheduleRecipe(**{"warmup_epochs": 0.0} | changes)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.networks = self.net

    def parameter_groups(self):
        return [{"params": list(self.net.parameters())}]


def rates(schedule, epochs, steps=10):
    method = Parts()
    optimizer = build_optimizer(optimizer_recipe(learning_rate=0.1), method)
    built = build_schedule(schedule, optimizer, epochs, steps)
    seen = [optimizer.param_groups[0]["lr"]]
    for step in range(1, epochs * steps + 1):
        built.step_update(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_papers_sgd_is_nesterov_and_decays_everything():
    optimizer = build_optimizer(optimizer_recipe(), Parts())
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (True, 0.9, 5e-4)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, weight_decay=5e-4)),
    ],
)
def test_fused_steps_are_the_plain_ones_but_for_rounding(name, reference):
    ours, plain = Parts(), Parts()
    plain.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(optimizer_recipe(name=name), ours)
    assert optimizer.defaults["fused"]
    others = reference(plain.parameters())
    for _ in range(5):
        for own, other in zip(ours.parameters(), plain.parameters(), strict=True):
            own.grad = other.grad = torch.randn_like(own)
        optimizer.step()
        others.step()
    for own, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-5)
    assert not build_optimizer(optimizer_recipe(name=name, options={"fused": False}), ours).defaults["fused"]


def test_norms_and_biases_can_be_left_out_of_weight_decay():
    optimizer = build_optimizer(optimizer_recipe(exclude_norm_and_bias=True, weight_decay=0.01), Parts())
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {(4, 3): 0.01, (4,): 0.0}


def test_milestones_of_the_family():
    seen = rates(schedule_recipe(name="multistep"), epochs=300, steps=2)
    assert seen[:300] == [0.1] * 300  # epochs 0..149
    assert seen[300:450] == pytest.approx([0.01] * 150)
    assert seen[450:600] == pytest.approx([0.001] * 150)


def test_cosine_with_warm_up():
    seen = rates(schedule_recipe(name="cosine", warmup_epochs=2), epochs=10)
    assert seen[0] == pytest.approx(1e-5)
    assert max(seen) == pytest.approx(0.1) == seen[20]
    assert seen[60] == pytest.approx(0.05)
    assert seen[99] < 1e-3


@pytest.mark.parametrize("name", ["constant", "step", "poly", "tanh"])
def test_other_schedules_never_exceed_the_rate(name):
    seen = rates(schedule_recipe(name=name, decay_epochs=3), epochs=10)
    assert max(seen) <= 0.1 + 1e-9
    assert min(seen) >= 0
    assert seen[-1] == 0.1 if name == "constant" else seen[-2] < 0.1


def test_any_optimizer_of_timm():
    assert type(build_optimizer(optimizer_recipe(name="adamw", learning_rate=1e-3), Parts())).__name__ == "AdamW"


def test_mistakes_are_named():
    with pytest.raises(CoterieError, match="did you mean 'adamw'"):
        build_optimizer(optimizer_recipe(name="adamww"), Parts())
    with pytest.raises(CoterieError, match="cannot be built"):
        build_optimizer(optimizer_recipe(options={"nonsense": 1}), Parts())


def works_on_a_cpu(name):
    """Whether timm's optimizer of that name trains a matrix and a vector by their gradients alone."""
    return not name.startswith(("bnb", "fused")) and name != "adahessian"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what needs a GPU is there")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith("kron") else name  # they compile their step
        for name in timm.optim.list_optimizers()
    ],
)
def test_every_optimizer_of_timm_is_built_or_refused_in_a_line(name):
    method = Parts()
    if works_on_a_cpu(name):
        optimizer = build_optimizer(optimizer_recipe(name=name), method)
        assert optimizer.param_groups[0]["params"]
        for _ in range(2):
            optimizer.zero_grad()
            sum(parameter.square().sum() for parameter in method.parameters()).backward()
            optimizer.step()
        require_fitting_state(optimizer)  # what a checkpoint holds of it is accepted when it comes back
        return
    with pytest.raises(
        CoterieError, match=f"^optimizer.name='{name}' (cannot be built|needs second derivatives)"
    ) as caught:
        build_optimizer(optimizer_recipe(name=name), method)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_students_that_are_all_frozen_are_refused():
    method = Parts()
    method.net.requires_grad_(False)
    with pytest.raises(CoterieError, match=r"every parameter of the students is frozen.*classifier"):
        build_optimizer(optimizer_recipe(), method)
    method.net[0].bias.requires_grad_(True)
    assert build_optimizer(optimizer_recipe(), method)


def test_a_training_of_one_step_is_not_warned_of():
    handler = logging.handlers.BufferingHandler(100)
    logging.getLogger().addHandler(handler)
    method = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    build_schedule(schedule_recipe(), optimizer, epochs=1, steps_per_epoch=1)
    logging.getLogger().removeHandler(handler)
    assert not handler.buffer
