from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from coterie.errors import CoterieError
from coterie.losses.denoising import noised
from coterie.methods.restoration.dfosd import DFOSD
from coterie.methods.restoration.regression import Regression


def trained(module):
    return [each for each in module.parameters() if each.requires_grad]


def gradients(method, names, batch):
    """Of the sum of some loss terms: the generator's and the discriminator's."""
    torch.manual_seed(1)
    losses = method(*batch)
    method.zero_grad()
    sum(losses[name] for name in names).backward()
    return [
        [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained(part)]
        for part in (method.generator, method.discriminator)
    ]


def moves(parts):
    return sum(each.abs().sum().item() for each in parts) > 0


def test_neither_sides_loss_reaches_the_others_parameters(make_generator, batch):
    method = DFOSD(make_generator())
    generator, discriminator = gradients(method, ["spatial", "ea_dists_random", "adversarial"], batch)
    assert moves(generator)
    assert not moves(discriminator)
    generator, discriminator = gradients(method, ["discriminator"], batch)
    assert not moves(generator)
    assert moves(discriminator)
    generator, discriminator = gradients(method, ["adversarial"], batch)
    assert moves(generator)  # through the noised latents
    assert not moves(discriminator)


def test_optimizers_hold_each_side_and_nothing_twice(make_generator):
    method = DFOSD(make_generator(pretrained=True), perceptual="none")
    (group,) = method.parameter_groups()
    (own,) = method.build_optimizers()["discriminator"].param_groups
    mine, other = {id(each) for each in group["params"]}, {id(each) for each in own["params"]}
    assert not mine & other
    assert mine | other == {id(each) for each in trained(method)}
    names = {name for name, each in method.named_parameters() if each.requires_grad}
    assert all("lora_" in name or name.startswith("discriminator.head.") for name in names)


def test_the_discriminator_moves_once_in_several_steps_and_a_resumed_training_keeps_count(make_generator, batch):
    method = DFOSD(make_generator(), perceptual="none", discriminator_every=3)
    optimizer = method.build_optimizers()["discriminator"]
    moved = []
    for step in range(7):
        if step == 4:  # as from a checkpoint
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = method.build_optimizers()["discriminator"]
            optimizer.load_state_dict(state)
        before = [each.clone() for each in trained(method.discriminator)]
        method(*batch)["discriminator"].backward()
        optimizer.step()
        optimizer.zero_grad()
        pairs = zip(before, trained(method.discriminator), strict=True)
        moved.append(any(not torch.equal(old, new) for old, new in pairs))
    assert moved == [True, False, False, True, False, False, True]


def test_terms_equal_their_definitions(make_generator, batch):
    method = DFOSD(make_generator(), perceptual_weight=0.5, adversarial_weight=0.2, shared_noise=True)
    low, high = batch
    torch.manual_seed(3)
    losses = method(low, high)
    torch.manual_seed(3)
    latents, restored = method.restored(low)
    steps = len(method.generator.alphas_bar)
    times = torch.randint(0, steps, (3,))
    noise = torch.randn_like(latents)
    share = method.generator.alphas_bar[times]
    made = method.discriminator(noised(latents, noise, share), times)
    real = method.discriminator(noised(method.generator.encode(high), noise, share), times)
    expected = {
        "spatial": ((2 * restored - 2 * high) ** 2).mean(),
        "ea_dists_random": 0.5 * method.likeness.network.edge_aware(restored, high).mean(),
        "adversarial": -0.2 * made.sigmoid().log().mean(),
        "discriminator": -(1 - made.sigmoid()).log().mean() - real.sigmoid().log().mean(),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"adversary": "none"}, {"spatial", "ea_dists_random"}),
        ({"adversary": "none", "perceptual": "none"}, {"spatial"}),
        ({"perceptual": "dists", "r1": 0.1}, {"spatial", "dists_random", "adversarial", "discriminator", "penalty"}),
    ],
)
def test_parts_are_switched_off_by_settings(make_generator, batch, options, terms):
    method = DFOSD(make_generator(), **options)
    losses = method(*batch)
    assert set(losses) == terms
    sum(losses.values()).backward()
    assert all(math.isfinite(each.item()) for each in losses.values())
    assert (method.build_optimizers() == {}) == (options.get("adversary") == "none")


def test_without_a_part_it_is_regression(make_generator, batch):
    alone = DFOSD(make_generator(), adversary="none", perceptual="none")
    torch.testing.assert_close(alone(*batch), Regression(make_generator())(*batch))


def test_without_noise_latents_are_looked_at_as_they_are(make_generator, batch):
    method = DFOSD(make_generator(), noise=False, perceptual="none")
    seen = []
    method.discriminator.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    first = method(*batch)
    assert all(not times.any() for _, times in seen)
    torch.testing.assert_close(method(*batch), first)  # nothing is drawn
    torch.testing.assert_close(seen[-1][0], method.generator.encode(batch[1]))


@pytest.mark.slow
def test_the_margin_is_the_same_in_every_evaluation_and_grows_with_training(make_generator, batch):
    method = DFOSD(make_generator(), perceptual="none", noise=False, discriminator_learning_rate=3e-3)
    low, high = batch

    def margin():
        with torch.no_grad():
            return method.eval().statistics(low, high, method.predict(low))["margin"]

    before = margin()
    torch.testing.assert_close(margin(), before)
    optimizer = method.build_optimizers()["discriminator"]
    method.train()
    for _ in range(12):
        method(low, high)["discriminator"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before.shape == (3,)
    assert margin().mean() > before.mean() + 0.02


@pytest.mark.slow
def test_it_is_built_again_without_what_it_started_from(make_generator, batch, tmp_path):
    generator = make_generator(lora=None, pretrained=True)
    generator.unet.save_pretrained(tmp_path / "unet")
    method = DFOSD(generator, dists_backbone="random", discriminator=str(tmp_path))
    assert method.adversary == "pretrained"
    options = json.loads(json.dumps(method.without_sources()))
    again = DFOSD(make_generator(lora=None, pretrained=True), **options)
    again.load_state_dict(method.state_dict())
    assert not any(name.startswith("_frozen") for name in method.state_dict())
    assert copy.deepcopy(method).state_dict().keys() == again.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversary": "pretrained"}, "the generator starts from nothing"),
        ({"adversary": "none", "discriminator": "folder"}, "has no effect with method.adversary=none"),
        ({"discriminator": "./nowhere"}, "there is no folder"),
    ],
)
def test_settings_that_do_not_fit(make_generator, options, message):
    with pytest.raises(CoterieError, match=message):
        DFOSD(make_generator(), **options)


def test_images_that_do_not_fit_the_levels(make_generator, batch):
    with pytest.raises(CoterieError, match="28x28 pixels: expected multiples of 8"):
        Regression(make_generator())(batch[0][..., :7, :7], batch[1][..., :28, :28])


def test_a_rank_has_no_effect_on_a_discriminator_that_starts_from_nothing(make_generator):
    with pytest.raises(CoterieError, match=r"discriminator_rank=4 has no effect with method.adversary=random"):
        DFOSD(make_generator(), discriminator_rank=4)
    DFOSD(make_generator(pretrained=True), dists_backbone="random", discriminator_rank=4)
