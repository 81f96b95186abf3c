from __future__ import annotations

import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.restoration.denoising import Denoising
from coterie.methods.restoration.vsd import VSD


def moved(module):
    return sum(each.grad.abs().sum().item() for each in module.parameters() if each.grad is not None) > 0


def test_each_loss_reaches_its_own_side(make_generator, batch):
    method = VSD(make_generator(pretrained=True), rank=2)
    with torch.no_grad():  # the second model has learnt something else than the teacher
        for name, each in method.own.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
    losses = method(*batch)
    assert set(losses) == {"spatial", "distillation", "own_noise"}
    losses["distillation"].backward(retain_graph=True)
    assert moved(method.generator)
    assert not moved(method.own)
    method.zero_grad()
    losses["own_noise"].backward()
    assert moved(method.own)
    assert not moved(method.generator)
    (group,) = method.build_optimizers()["own"].param_groups
    assert {id(each) for each in group["params"]} == {
        id(each) for each in method.own.parameters() if each.requires_grad
    }


def test_two_models_that_agree_ask_for_nothing(make_generator, batch):
    method = VSD(make_generator(pretrained=True), rank=2)
    losses = method(*batch)
    assert losses["distillation"].item() == pytest.approx(0, abs=1e-9)
    assert not any(name.startswith("_frozen") for name in method.state_dict())


def test_a_teacher_needs_weights(make_generator):
    with pytest.raises(CoterieError, match="network needs weights"):
        VSD(make_generator())


@pytest.mark.slow
def test_a_diffusion_model_learns_to_denoise(make_generator, batch):
    with pytest.raises(CoterieError, match=r"set network.lora.rank=null"):
        Denoising(make_generator())
    method = Denoising(make_generator(lora=None))
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    found = []
    for step in range(25):
        torch.manual_seed(step)
        (loss,) = method(*batch).values()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    assert sum(found[:5]) / 5 > 1.03 * sum(found[-5:]) / 5
