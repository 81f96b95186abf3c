from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.networks.one_step.tiles import _starts, in_tiles


@pytest.fixture
def image():
    return torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(0))


def restore(low):
    """Looks two pixels around, and enlarges."""
    return F.avg_pool2d(F.interpolate(low, scale_factor=2, mode="nearest"), 5, stride=1, padding=2)


def test_tiles_equal_the_whole_where_a_tiles_border_is_far(image):
    whole = restore(image)
    calls = []

    def counted(low):
        calls.append(low.shape[-2:])
        return restore(low)

    found = in_tiles(counted, image, 2, tile=32, overlap=8)
    assert len(calls) > 4
    assert all(max(each) <= 16 for each in calls)
    assert found.shape == whole.shape
    middle = (..., slice(4, 20), slice(4, 16))  # of the first tile, where no other reaches
    torch.testing.assert_close(found[middle], whole[middle])
    assert (found - whole)[..., 3:-3, 3:-3].abs().max() < 0.2  # borders of tiles count little


def test_flat_images_have_no_seams():
    flat = torch.full((1, 3, 50, 30), 0.4)
    found = in_tiles(lambda low: F.interpolate(low, scale_factor=4.0), flat, 4, tile=64, overlap=16)
    torch.testing.assert_close(found, torch.full((1, 3, 200, 120), 0.4))


def test_what_fits_is_restored_whole(image):
    assert torch.equal(in_tiles(restore, image, 2, tile=80, overlap=0), restore(image))


def test_tiles_reach_the_end_and_share_enough():
    for length in range(16, 70):
        starts = _starts(length, 16, 4)
        assert starts[0] == 0
        assert starts[-1] + 16 == length
        assert all(a + 16 - b >= 4 for a, b in pairwise(starts))


def test_bad_sizes(image):
    with pytest.raises(CoterieError, match="tile=32, overlap=20"):
        in_tiles(restore, image, 2, tile=32, overlap=20)
    with pytest.raises(CoterieError, match="tiles are of one image, got 2"):
        in_tiles(restore, image.expand(2, -1, -1, -1), 2)
