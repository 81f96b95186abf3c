from __future__ import annotations

import pytest
import torch

from coterie.networks.projection import Projector, as_grid, grid_of, stage_pairs


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (4, (0, 2)),
        (5, (1, 2)),
        (6, (2, 2)),
        (49, (0, 7)),
        (196, (0, 14)),
        (197, (1, 14)),
        (198, (2, 14)),
        (201, (5, 14)),
        (261, (5, 16)),
        (9, (0, 3)),  # not five and 2 by 2
        (7, (0, 0)),
        (199, (0, 0)),
        (200, (0, 0)),
        (1, (0, 0)),  # a lone token is no square, and neither are two or three
        (2, (0, 0)),
        (3, (0, 0)),
    ],
)
def test_tokens_are_a_square_after_up_to_two_class_tokens_or_one_and_four_registers(tokens, expected):
    assert grid_of(tokens) == expected


def test_maps_stay_as_they_are():
    feature_map = torch.randn(2, 3, 4, 5)
    assert as_grid(feature_map, (3, 4, 5)) is feature_map


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_tokens_are_laid_out_row_by_row_without_class_tokens(extra):
    tokens = torch.randn(2, extra + 9, 3)
    grid = as_grid(tokens, (extra + 9, 3))
    assert grid.shape == (2, 3, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(grid[:, :, row, column], tokens[:, extra + 3 * row + column])


def test_tokens_that_are_no_square_stand_in_a_line():
    tokens = torch.randn(2, 7, 3)
    grid = as_grid(tokens, (7, 3))
    assert grid.shape == (2, 3, 7, 1)
    for place in range(7):
        assert torch.equal(grid[:, :, place, 0], tokens[:, place])


def mixed(projector, values):
    """The 1x1 convolution by hand; it has no bias."""
    assert projector.project.bias is None
    return torch.einsum("oc,bchw->bohw", projector.project.weight[:, :, 0, 0], values)


def averaged(values):
    """Mean over squares of 2 by 2."""
    return values.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))


def test_the_students_channels_become_the_teachers():
    projector = Projector((3, 4, 4), (5, 4, 4))
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    own, other = projector(student, teacher)
    torch.testing.assert_close(own, mixed(projector, student))
    assert torch.equal(other, teacher)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 3 * 5


def test_the_finer_side_is_averaged():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    projector = Projector((3, 4, 4), (5, 2, 2))
    own, other = projector(student, teacher)
    torch.testing.assert_close(own, averaged(mixed(projector, student)))
    assert torch.equal(other, teacher)
    coarse, fine = torch.randn(2, 3, 2, 2), torch.randn(2, 5, 4, 4)
    projector = Projector((3, 2, 2), (5, 4, 4))
    own, other = projector(coarse, fine)
    torch.testing.assert_close(own, mixed(projector, coarse))
    torch.testing.assert_close(other, averaged(fine))


def test_each_direction_takes_the_smaller_side():
    own, other = Projector((3, 4, 2), (5, 2, 4))(torch.randn(2, 3, 4, 2), torch.randn(2, 5, 2, 4))
    assert own.shape == other.shape == (2, 5, 2, 2)


def test_tokens_are_compared_with_a_map_position_by_position():
    tokens, teacher = torch.randn(2, 17, 3), torch.randn(2, 5, 2, 2)
    projector = Projector((17, 3), (5, 2, 2))
    own, other = projector(tokens, teacher)
    square = tokens[:, 1:].transpose(1, 2).reshape(2, 3, 4, 4)
    torch.testing.assert_close(own, averaged(mixed(projector, square)))
    assert torch.equal(other, teacher)
    student, teacher_tokens = torch.randn(2, 3, 4, 4), torch.randn(2, 17, 5)
    projector = Projector((3, 4, 4), (17, 5))
    own, other = projector(student, teacher_tokens)
    torch.testing.assert_close(own, mixed(projector, student))
    torch.testing.assert_close(other, teacher_tokens[:, 1:].transpose(1, 2).reshape(2, 5, 4, 4))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (3, 4, [(0, 1), (1, 2), (2, 3)]),
        (4, 3, [(1, 0), (2, 1), (3, 2)]),
        (4, 1, [(3, 0)]),
        (2, 0, []),
    ],
)
def test_stages_are_paired_from_the_last_one_on(student, teacher, expected):
    assert stage_pairs(student, teacher) == expected
