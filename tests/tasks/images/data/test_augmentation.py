"""The batched functions against slow ones that go image by image, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.tasks.images.data.augmentation import Augmentation, Mixing, crop_and_flip, cutout, mix, partners

INDICES = torch.arange(1000)


def images(count=1000, channels=1, height=6, width=7):
    """Every pixel of an image names its place, so that a crop's origin can be read from it; 0 occurs only as padding."""
    places = torch.arange(1, height * width + 1, dtype=torch.uint8).view(1, 1, height, width)
    return places.expand(count, channels, height, width).contiguous()


def origin(crop: np.ndarray, height: int, width: int) -> tuple[bool, int, int]:
    """Whether a crop is mirrored, and its offset, found by trying all."""
    padded_by = 8
    source = np.arange(1, height * width + 1, dtype=np.uint8).reshape(height, width)
    for mirrored in (False, True):
        padded = np.pad(source[:, ::-1] if mirrored else source, padded_by)
        for down in range(-3, 4):
            for right in range(-3, 4):
                top, left = padded_by + down, padded_by + right
                if np.array_equal(padded[top : top + height, left : left + width], crop):
                    return mirrored, down, right
    raise AssertionError("no crop of the padded image")


def test_every_crop_is_one_of_the_padded_image_and_all_occur_equally():
    result = crop_and_flip(images(), INDICES, 5, Augmentation(padding=2, flip=True)).numpy()
    found = [origin(each[0], 6, 7) for each in result]
    offsets = {(down, right) for _, down, right in found}
    assert offsets == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert 0.45 < np.mean([mirrored for mirrored, _, _ in found]) < 0.55
    counts = np.unique([down for _, down, _ in found], return_counts=True)[1]
    assert counts.min() > 150  # of 200 expected


def test_draws_of_row_column_and_flip_are_independent():
    found = np.array(
        [origin(each[0], 6, 7) for each in crop_and_flip(images(), INDICES, 5, Augmentation(2, True)).numpy()]
    )
    correlations = np.corrcoef(found.T.astype(float)) - np.eye(3)
    assert np.abs(correlations).max() < 0.12


def test_channels_move_together():
    result = crop_and_flip(images(50, channels=3), INDICES[:50], 1, Augmentation(3, True))
    assert torch.equal(result[:, 0], result[:, 1])
    assert torch.equal(result[:, 0], result[:, 2])


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(crop_and_flip(images(5), INDICES[:5], 1, Augmentation()), images(5))


@given(batch=st.lists(st.integers(0, 999), min_size=1, max_size=12), seed=st.integers(0, 2**62), view=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_an_image_is_augmented_the_same_in_every_batch(batch, seed, view):
    chosen = torch.tensor(batch)
    whole = crop_and_flip(images(), INDICES, seed, Augmentation(2, True), view)
    assert torch.equal(crop_and_flip(images(len(batch)), chosen, seed, Augmentation(2, True), view), whole[chosen])
    noise = torch.rand(len(batch), 2, 6, 7)
    alone = torch.cat([cutout(noise[i : i + 1], chosen[i : i + 1], seed, 3, view) for i in range(len(batch))])
    assert torch.equal(cutout(noise, chosen, seed, 3, view), alone)


def test_seeds_and_views_draw_anew():
    settings = Augmentation(2, True)
    first = crop_and_flip(images(), INDICES, 1, settings)
    for other in (crop_and_flip(images(), INDICES, 2, settings), crop_and_flip(images(), INDICES, 1, settings, view=1)):
        differ = (first != other).flatten(1).any(1).float().mean()
        assert differ > 0.9  # 49 of 50 crops differ


def test_cutout_blanks_one_square_that_may_leave_the_image():
    result = cutout(torch.ones(1000, 2, 9, 9), INDICES, 3, 4)
    blank = (result == 0).numpy()
    assert np.array_equal(blank[:, 0], blank[:, 1])
    rows, columns = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert np.array_equal(blank[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 4
    assert rows.min() == columns.min() == 2  # centred in a corner
    assert set(np.unique(result)) == {0.0, 1.0}


def mixed(settings: Mixing, count=1000, seed=2):
    """Images of one value each, so that the share of the own image can be read from any pixel."""
    indices = torch.arange(count)
    one_hot = torch.eye(2)
    own, other = torch.ones(count, 1, 8, 8), torch.zeros(count, 1, 8, 8)
    targets = one_hot[torch.ones(count, dtype=torch.long)]
    return mix(own, other, targets, one_hot[torch.zeros(count, dtype=torch.long)], indices, seed, settings)


def test_mixup_weighs_pixels_and_targets_alike_with_beta_shares():
    pictures, targets = mixed(Mixing(mixup=0.4))
    share = pictures[:, 0, 0, 0]
    torch.testing.assert_close(pictures, share[:, None, None, None].expand_as(pictures))
    torch.testing.assert_close(targets[:, 1], share)
    torch.testing.assert_close(targets.sum(1), torch.ones(1000))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)


def test_cutmix_pastes_one_box_and_weighs_targets_by_its_area():
    pictures, targets = mixed(Mixing(cutmix=1.0))
    foreign = (pictures[:, 0] == 0).numpy()
    assert set(pictures.unique().tolist()) == {0.0, 1.0}
    assert np.array_equal(foreign.sum((1, 2)), foreign.any(2).sum(1) * foreign.any(1).sum(1))
    torch.testing.assert_close(targets[:, 0], torch.from_numpy(foreign.mean((1, 2))).float())
    assert foreign.mean() > 0.2


def test_with_both_a_coin_decides_for_each_sample():
    pictures, _ = mixed(Mixing(mixup=1.0, cutmix=1.0))
    binary = ((pictures == 0) | (pictures == 1)).flatten(1).all(1).float().mean()
    assert 0.45 < binary < 0.55


def test_mixing_depends_on_the_sample_and_not_on_its_batch():
    torch.manual_seed(0)
    own, other, targets = torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8), torch.eye(6)
    indices = torch.tensor([5, 3, 900, 17, 0, 42])
    arguments = (9, Mixing(0.3, 0.7))
    together = mix(own, other, targets, targets.flip(0), indices, *arguments)
    for place in range(6):
        part = slice(place, place + 1)
        alone = mix(own[part], other[part], targets[part], targets.flip(0)[part], indices[part], *arguments)
        assert torch.equal(together[0][part], alone[0])
        assert torch.equal(together[1][part], alone[1])


def test_partners_cover_the_data_set():
    chosen = partners(INDICES, 4, 50)
    assert chosen.min() >= 0
    assert set(chosen.tolist()) == set(range(50))
