"""The report of a comparison of dual encoders: quality over the latency of a query, arm by arm."""

from __future__ import annotations

import json
import re

import pytest

from coterie.comparison.summary import summarise
from coterie.report.comparison import write_comparison_report
from coterie.tasks.figures import figures_of

# Latency in ms and MRR@10 of each arm: made up.
ARMS = {"one-hot": (3.1, 0.21), "embed_distill": (3.0, 0.44), "embed_distill, 6 layers": (9.4, 0.52)}


def compared(timed):
    runs = [
        {
            "label": label,
            "seed": seed,
            "status": "finished",
            "figures": {
                "primary.mrr_10": quality + 0.01 * seed,
                "seconds_per_epoch": 2.0,
                **({"primary.query_ms": latency + 0.1 * seed} if label in timed else {}),
            },
            "curves": {},
        }
        for label, (latency, quality) in ARMS.items()
        for seed in range(3)
    ]
    return {
        "task": "retrieval",
        "title": "docstrings",
        "reference": "one-hot",
        "seeds": [0, 1, 2],
        "shared_settings": {"training.epochs": 3},
        "arm_settings": {label: {} for label in ARMS},
        "runs": runs,
        **summarise(runs, "one-hot", figures_of("retrieval")),
    }


@pytest.mark.parametrize("timed", [list(ARMS), ["one-hot", "embed_distill"], []])
def test_quality_is_drawn_over_the_latency_of_the_arms_that_have_one(timed, tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(compared(timed)))
    page = write_comparison_report(tmp_path).read_text()
    drawing = tmp_path / "figures" / "cost_query_ms.svg"
    assert ("MRR@10 and query latency" in page) == drawing.is_file() == bool(timed)
    if timed:
        written = "".join(re.findall(r">([^<>]+)<", drawing.read_text()))
        assert "query latency, ms" in written
        for label in ARMS:
            assert (label in re.findall(r">([^<>]+)<", drawing.read_text())) == (label in timed)
