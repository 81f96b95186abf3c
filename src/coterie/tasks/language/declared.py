"""Figures of language modeling, computed by :class:`coterie.tasks.language.figures.LanguageFigures`. This module does not import torch, so that a report can read it."""

from __future__ import annotations

from coterie.tasks.figures import Figure

FIGURES: tuple[Figure, ...] = (
    Figure("nll", "NLL", "lower", unit="nats", meaning="mean negative log-likelihood of the token that comes"),
    Figure("perplexity", "perplexity", "lower", ".2f", meaning="exp of the NLL: as many tokens to choose from"),
    Figure("top1", "next token", "higher", ".2%", meaning="positions whose likeliest token is the one that comes"),
    *(
        Figure(
            f"cr_{k}",
            f"CR@{k}",
            "higher",
            ".2%",
            optional=True,
            meaning=f"positions at which the {k} likeliest tokens are the teacher's, in its order"
            if k > 1
            else "positions at which the likeliest token is the teacher's",
        )
        for k in (1, 3, 5)
    ),
    *(
        Figure(
            f"mor_{k}",
            f"MOR@{k}",
            "higher",
            ".2%",
            optional=True,
            meaning=f"share of the {k} likeliest tokens that are among the teacher's {k}",
        )
        for k in (3, 5, 10, 20)
    ),
)
