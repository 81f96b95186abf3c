from __future__ import annotations

from coterie.training.tracking import tracked_validation

FIGURES = {
    "students": [{"top1": 0.5, "top5": 0.8}, {"top1": 0.7, "top5": 0.9}],
    "mean_student": {"top1": 0.6, "top5": 0.85},
    "deployed": {"student": 1, "top1": 0.7, "top5": 0.9},
    "ensemble": {"method": {"top1": 0.75, "top5": 0.95}},
}


def test_the_figure_to_compare_by_has_the_plain_name():
    assert tracked_validation(FIGURES, None, 10) == {
        "validation/top1": 0.6,
        "validation/top5": 0.85,
        "validation/deployed_top1": 0.7,
        "validation/ensemble_top1": 0.75,
    }
    assert tracked_validation(FIGURES, 1, 10)["validation/top1"] == 0.7


def test_top5_is_left_out_with_fewer_than_ten_classes():
    assert "validation/top5" not in tracked_validation(FIGURES, None, 9)
