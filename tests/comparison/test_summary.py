from __future__ import annotations

import pytest

from coterie.comparison.summary import summarise
from coterie.tasks.figures import CLASSIFICATION

LEVELS = {"baseline": 0.20, "better": 0.24, "level": 0.20}


def test_statistics_and_paired_differences(make_runs):
    runs = make_runs(LEVELS, 5)
    found = summarise(runs, "baseline", CLASSIFICATION)
    values = {label: [run["figures"]["primary.top1"] for run in runs if run["label"] == label] for label in LEVELS}
    assert found["methods"]["better"]["figures"]["primary.top1"]["values"] == values["better"]
    difference = found["differences"]["primary.top1"]["better"]
    pairs = zip(values["better"], values["baseline"], strict=True)
    assert difference["mean"] == pytest.approx(sum(a - b for a, b in pairs) / 5)
    assert difference["p_holm"] >= difference["p_t"]
    assert "baseline" not in found["differences"]["primary.top1"]


def test_the_reading_says_what_is_distinguishable_and_what_is_not(make_runs):
    reading = " ".join(summarise(make_runs(LEVELS, 5), "baseline", CLASSIFICATION)["reading"])
    assert "better is better than baseline" in reading
    assert "level is not distinguishable from baseline at 5 seeds" in reading
    assert "would mostly go unseen" in reading
    assert "The highest mean is better's" in reading
    assert "baseline over-fits: 70.0 %" in reading
    assert "An epoch of training takes" in reading
    worse = " ".join(summarise(make_runs({"baseline": 0.3, "worse": 0.2}, 5), "baseline", CLASSIFICATION)["reading"])
    assert "worse is worse than baseline" in worse


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"one": 1.4}, "An epoch of training of one takes 1.4 times baseline's"),
        ({"one": 1.4, "two": 1.41}, "An epoch of training takes 1.4 times baseline's"),
        ({"one": 1.4, "two": 2.6}, "An epoch of training takes 1.4 (one) to 2.6 (two) times baseline's"),
    ],
)
def test_what_an_epoch_takes_is_said_once(make_runs, seconds, expected):
    runs = make_runs({"baseline": 0.3, **dict.fromkeys(seconds, 0.3)}, 3)
    for run in runs:
        run["figures"]["seconds_per_epoch"] = seconds.get(run["label"], 1.0)
    assert expected in " ".join(summarise(runs, "baseline", CLASSIFICATION)["reading"])


@pytest.mark.parametrize("size", [8e4, 4e4])
def test_the_deployed_networks_are_called_of_one_size_where_they_are(make_runs, size):
    runs = make_runs({"baseline": 0.3, "other": 0.3}, 3)
    for run in runs:
        if run["label"] == "other":
            run["figures"]["parameters.deployed"] = size
    said = " ".join(summarise(runs, "baseline", CLASSIFICATION)["reading"])
    assert "An epoch of training of other takes" in said
    assert ("deployed networks are of one size" in said) == (size == 8e4)


@pytest.mark.parametrize(
    ("classes", "train", "level", "expected"),
    [
        (10, 0.12, 0.11, "is under-trained: 12.0 %"),
        (2, 0.55, 0.54, "is under-trained: 55.0 %"),
        (100, 0.02, 0.02, "is under-trained"),
        (10, 0.08, 0.12, "is under-trained"),  # below chance
        (2, 0.90, 0.89, "does not over-fit: 90.0 %"),
        (10, 0.55, 0.54, "does not over-fit"),
        (100, 0.70, 0.30, "over-fits"),
        (2, 0.58, 0.50, "over-fits"),
    ],
)
def test_a_reference_near_chance_is_under_trained(make_runs, classes, train, level, expected):
    runs = make_runs({"baseline": level, "other": level}, 3)
    for run in runs:
        run["about"] = {"num_classes": classes}
        run["figures"] |= {"train_top1": train, "primary.top1": level}
    (said,) = [
        each for each in summarise(runs, "baseline", CLASSIFICATION)["reading"] if "on the training samples" in each
    ]
    assert said.startswith(f"baseline {expected}")
    assert ("little to add" in said) == ("does not over-fit" in expected)


def test_what_would_count_alone_but_not_among_many_arms_is_said_so(make_runs):
    def reading(others: int) -> list[str]:
        runs = make_runs({"baseline": 0.20, "a": 0.20, **{f"arm{number}": 0.2 for number in range(others)}}, 5)
        base = {run["seed"]: run["figures"]["primary.top1"] for run in runs if run["label"] == "baseline"}
        for run in runs:
            if run["label"] == "a":  # p = 0.01
                gain = (0.004, 0.006, 0.005, 0.009, 0.002)[run["seed"]]
                run["figures"]["primary.top1"] = base[run["seed"]] + gain
        return summarise(runs, "baseline", CLASSIFICATION)["reading"]

    assert any(sentence.startswith("a is better than baseline") for sentence in reading(0))
    assert any(
        sentence.startswith("a is above baseline") and "would count alone" in sentence for sentence in reading(14)
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_claim_below_three_seeds(make_runs, seeds):
    reading = summarise(make_runs(LEVELS, seeds), "baseline", CLASSIFICATION)["reading"]
    assert any("no claim can be made" in sentence for sentence in reading)
    assert not any("is better than" in sentence or "distinguishable" in sentence for sentence in reading)


def test_only_seeds_that_both_have_are_paired(make_runs):
    runs = make_runs(LEVELS, 5)
    for run in runs:
        if run["label"] == "better" and run["seed"] < 2:
            run.update(status="failed", error="diverged", figures={}, curves={})
        if run["label"] == "level" and run["seed"] == 4:
            run.update(status="running", figures={}, curves={})
    found = summarise(runs, "baseline", CLASSIFICATION)
    assert found["differences"]["primary.top1"]["better"]["pairs"] == 3
    reading = " ".join(found["reading"])
    assert "better seed 0 (diverged)" in reading
    assert "1 of 15 runs are not finished" in reading


def test_without_the_reference_nothing_is_compared(make_runs):
    runs = [run for run in make_runs(LEVELS, 3) if run["label"] != "baseline"]
    runs.append({"label": "baseline", "seed": 0, "status": "missing", "figures": {}, "curves": {}})
    reading = summarise(runs, "baseline", CLASSIFICATION)["reading"]
    assert any("no finished run" in sentence for sentence in reading)


def test_an_own_ensemble_that_is_worse_is_said_to_be(make_runs):
    runs = make_runs(LEVELS, 5)
    for run in runs:
        if run["label"] == "better":
            run["figures"]["ensemble_method.top1"] -= 0.02 + 0.0001 * run["seed"]
    reading = " ".join(summarise(runs, "baseline", CLASSIFICATION)["reading"])
    assert "better's own ensemble is worse than the mean probability of the same students by 2.0" in reading
