from __future__ import annotations

from coterie.tasks.figures import CLASSIFICATION, Figure
from coterie.training.tracking import tracked_validation

FIGURES = {
    "students": [{"top1": 0.5, "top5": 0.8}, {"top1": 0.7, "top5": 0.9}],
    "mean_student": {"top1": 0.6, "top5": 0.85},
    "deployed": {"student": 1, "top1": 0.7, "top5": 0.9},
    "ensemble": {"method": {"top1": 0.75, "top5": 0.95}},
}


def test_the_figure_to_compare_by_has_the_plain_name():
    assert tracked_validation(FIGURES, None, CLASSIFICATION, 10) == {
        "validation/top1": 0.6,
        "validation/top5": 0.85,
        "validation/deployed_top1": 0.7,
        "validation/ensemble_top1": 0.75,
    }
    assert tracked_validation(FIGURES, 1, CLASSIFICATION, 10)["validation/top1"] == 0.7


def test_top5_is_left_out_with_fewer_than_ten_classes():
    assert "validation/top5" not in tracked_validation(FIGURES, None, CLASSIFICATION, 9)


def test_a_task_without_ensembles_tracks_what_it_declares():
    own = {"nll": 2.5, "unheard_of": 1.0}
    figures = {"students": [own], "mean_student": own, "deployed": {"student": 0, **own}}
    declared = (Figure("nll", "NLL", "lower"), Figure("cr_1", "CR@1", "higher", optional=True))
    assert tracked_validation(figures, None, declared, 0) == {"validation/nll": 2.5, "validation/deployed_nll": 2.5}
