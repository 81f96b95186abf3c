from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import CoterieError
from coterie.losses.frames import aggregated, frame_distance


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).unbind(
        0
    )  # predictions and targets [3, 4, 5]


def slow(predictions, targets, valid, weight):
    """Frame by frame, in Python's numbers."""
    found = []
    for row, other, counts in zip(predictions.tolist(), targets.tolist(), valid.tolist(), strict=True):
        for y, h, is_valid in zip(row, other, counts, strict=True):
            if is_valid:
                cosine = sum(a * b for a, b in zip(y, h, strict=True)) / (math.hypot(*y) * math.hypot(*h))
                distance = sum(abs(a - b) for a, b in zip(y, h, strict=True)) / len(y)
                found.append(distance + weight * math.log(1 + math.exp(-cosine)))
    return sum(found) / len(found)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_it_equals_a_slow_reference_and_leaves_padding_out(frames, weight):
    valid = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    expected = slow(*frames, valid, weight)
    assert frame_distance(*frames, valid, weight).item() == pytest.approx(expected)
    spoilt = torch.where(valid[..., None], frames[0], 1e6).requires_grad_()
    loss = frame_distance(spoilt, frames[1], valid, weight)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert (spoilt.grad[~valid] == 0).all()
    assert frame_distance(*frames, None, weight).item() == pytest.approx(slow(*frames, torch.ones(3, 4), weight))


def test_no_valid_frame_and_gradients(frames):
    assert frame_distance(*frames, torch.zeros(3, 4, dtype=torch.bool)).item() == 0
    own = frames[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: frame_distance(x, frames[1]), own)


def test_equal_frames_keep_the_cosines_least_value(frames):
    assert frame_distance(frames[0], frames[0]).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_several_teachers(frames):
    average = aggregated([frames[0], frames[1]])
    torch.testing.assert_close(average, (frames[0] + frames[1]) / 2)
    both = aggregated([frames[0], frames[1][:, :3]], "concatenation")  # a frame shorter at the end
    assert both.shape == (3, 3, 10)
    assert torch.equal(both[..., 5:], frames[1][:, :3])
    for states, aggregation, message in (
        ([], "average", "no teachers' states"),
        ([frames[0], frames[1][:, :2]], "average", r"\[4, 2\] frames"),
        ([frames[0], frames[1][..., :3]], "average", r"of \[3, 5\] features cannot be averaged"),
        ([frames[0]], "sum", "expected average or concatenation"),
    ):
        with pytest.raises(CoterieError, match=message):
            aggregated(states, aggregation)


def test_shapes_that_do_not_fit(frames):
    with pytest.raises(CoterieError, match="differ in shape"):
        frame_distance(frames[0], frames[1][:, :3])
    with pytest.raises(CoterieError, match="one value a frame"):
        frame_distance(*frames, torch.ones(3, 3, dtype=torch.bool))
