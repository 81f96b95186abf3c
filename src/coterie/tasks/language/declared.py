"""The figures of language modeling, see :class:`coterie.tasks.language.figures.LanguageFigures`; light, so that a report reads them without torch."""

from __future__ import annotations

from coterie.tasks.figures import Figure

FIGURES: tuple[Figure, ...] = (
    Figure("nll", "NLL", "lower", ".4f"),
    Figure("perplexity", "perplexity", "lower", ".2f"),
    Figure("top1", "next token", "higher", ".2%"),
    *(Figure(f"cr_{k}", f"CR@{k}", "higher", ".2%", optional=True) for k in (1, 3, 5)),
    *(Figure(f"mor_{k}", f"MOR@{k}", "higher", ".2%", optional=True) for k in (3, 5, 10, 20)),
)
