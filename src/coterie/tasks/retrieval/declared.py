"""Figures of retrieval, computed by :mod:`coterie.tasks.retrieval.ranking`. This module does not import torch, so that a report can read it."""

from __future__ import annotations

from coterie.tasks.figures import Figure

RECALLS = (1, 5, 20, 100)
FIGURES: tuple[Figure, ...] = (
    Figure(
        "mrr_10",
        "MRR@10",
        "higher",
        ".4f",
        meaning="mean of 1 / rank of a query's first relevant document; 0 beyond rank 10",
        metric="mrr_at_10",
    ),
    Figure(
        "ndcg_10",
        "nDCG@10",
        "higher",
        ".4f",
        meaning="discounted gain of the first 10 documents over the best possible",
    ),
    *(
        Figure(
            f"recall_{k}",
            f"Recall@{k}",
            "higher",
            ".2%",
            meaning=f"share of a query's relevant documents among the first {k}",
        )
        for k in RECALLS
    ),
    Figure(
        "map_100", "MAP@100", "higher", ".4f", meaning="mean precision at each relevant document among the first 100"
    ),
    Figure("kept", "teacher's MRR kept", "higher", ".1%", optional=True, meaning="MRR@10 over the teacher's"),
    Figure(
        "query_ms",
        "query latency",
        "lower",
        ".2f",
        optional=True,
        unit="ms",
        meaning="median time to encode one query on this machine's CPU",
        cost=True,
    ),
)
