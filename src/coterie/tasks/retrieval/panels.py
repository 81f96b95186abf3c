"""Report panels of a dual encoder: figures beside the teacher's and BM25's, ranks, similarity of vectors, and queries on which student and teacher differ most.

The task keeps their data in the run's gallery, in ``retrieval.json``, with a bounded size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coterie.files import write_json
from coterie.run_folder import RunFolder, read_json
from coterie.tasks.panels import Panel, Table
from coterie.tasks.retrieval.declared import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from coterie.tasks.retrieval.data.relevance import Query
    from coterie.tasks.retrieval.evaluation import RetrievalEvaluation
    from coterie.tasks.retrieval.ranking import Numbers

FILE = "retrieval.json"
SHOWN = 240  # characters of a text
BOUNDS = (1, 2, 3, 5, 10, 20, 50, 100)  # bins of the first relevant document's rank
BINS = 40  # bins of cosines, from -1 to 1


def save(
    folder: RunFolder,
    split: str,
    *,
    queries: Sequence[Query],
    documents: Sequence[str],
    evaluation: RetrievalEvaluation,
    taught: Numbers | None,
    figures: Mapping[str, Any],
    teacher: Mapping[str, Any] | None,
    shown: Sequence[int],
) -> None:
    """Write the data of the panels to the gallery, which must exist.

    Args:
        folder: the run folder.
        split: the evaluated split.
        queries: queries of the split.
        documents: all documents.
        evaluation: the final evaluation.
        taught: the teacher's ranking; None without a teacher.
        figures: figures of the run's summary, including BM25's.
        teacher: the teacher's note with its figures.
        shown: indices of the queries to show.
    """
    import numpy as np

    from coterie.tasks.retrieval.ranking import first_ranks

    rankings = {"student": evaluation.ranked} | ({"teacher": taught} if taught is not None else {})
    firsts = {name: first_ranks(each, queries) for name, each in rankings.items()}
    within = {name: [float((ranks <= bound).mean()) for bound in BOUNDS] for name, ranks in firsts.items()}
    models = {"student": figures["deployed"], "BM25": figures["bm25"]}
    if teacher is not None:
        latency = {"query_ms": figures["teacher_query_ms"]} if "teacher_query_ms" in figures else {}
        models["teacher"] = {**teacher, **latency}
    kept = {
        "split": split,
        "documents": len(documents),
        "within": within,
        "figures": {
            name: {each.key: found[each.key] for each in FIGURES if each.key in found} for name, found in models.items()
        },
        "cosines": np.histogram(evaluation.cosines, BINS, (-1, 1))[0].tolist() if len(evaluation.cosines) else [],
        "examples": [
            {
                "query": _cut(queries[number].text),
                "relevant": _cut(documents[queries[number].relevant[0][0]]),
                "ranks": {name: int(ranks[number]) for name, ranks in firsts.items()},
                "first": {name: _cut(documents[int(each[number, 0])]) for name, each in rankings.items()},
            }
            for number in shown
        ],
        "depth": evaluation.ranked.shape[1],
    }
    write_json(folder.gallery / FILE, kept)


def panels(folder: RunFolder) -> list[Panel]:
    """Return the panels of a run; none if their data were not kept."""
    path = folder.gallery / FILE
    if not path.is_file():
        return []
    kept = read_json(path)
    found = [_figures(kept), _ranks(kept)]
    if kept["cosines"]:
        found.append(_cosines(kept))
    if kept["examples"]:
        found.append(_examples(kept))
    return found


def _figures(kept: Mapping[str, Any]) -> Panel:
    models = kept["figures"]
    shown = [each for each in FIGURES if any(each.key in found for found in models.values())]
    rows = tuple(
        (name, *(each.show(found[each.key]) if each.key in found else "–" for each in shown))
        for name, found in models.items()
    )
    heads = [f"{each.label}, {each.unit}" if each.unit else each.label for each in shown]
    text = f"On the {kept['split']} queries, among all {kept['documents']:,} documents. BM25 compares words alone."
    return Panel("Student, teacher and BM25", text, (), Table(("", *heads), rows))


def _ranks(kept: Mapping[str, Any]) -> Panel:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    picture = Figure(figsize=(6, 3.6), layout="constrained")
    axes = picture.subplots()
    for name, shares in kept["within"].items():
        axes.plot(BOUNDS, shares, marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xticks(BOUNDS, [str(bound) for bound in BOUNDS])
    axes.minorticks_off()
    axes.set(xlabel="rank", ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend()
    text = f"Share of {kept['split']} queries whose first relevant document stands at a rank or before."
    return Panel("Rank of the first relevant document", text, (picture,))


def _cosines(kept: Mapping[str, Any]) -> Panel:
    from matplotlib.figure import Figure

    picture: Figure = Figure(figsize=(6, 3), layout="constrained")
    axes = picture.subplots()
    counts = kept["cosines"]
    width = 2 / len(counts)
    axes.bar([-1 + width * (place + 0.5) for place in range(len(counts))], counts, width)
    axes.set(xlabel="cosine of the student's vector with the teacher's", ylabel="queries")
    text = f"Of the {kept['split']} queries. Where the student's vectors lie where the teacher's are, an index of the teacher's serves both."
    return Panel("Similarity of vectors", text, (picture,))


def _examples(kept: Mapping[str, Any]) -> Panel:
    names = list(kept["examples"][0]["ranks"])

    def rank(value: int) -> str:
        return str(value) if value <= kept["depth"] else f"above {kept['depth']}"

    rows = tuple(
        (
            each["query"],
            each["relevant"],
            *(f"{rank(each['ranks'][name])}: {each['first'][name]}" for name in names),
        )
        for each in kept["examples"]
    )
    heads = tuple(f"{name}: rank, and its first document" for name in names)
    other = "student and teacher differ most" if len(names) > 1 else "the student is furthest from the right document"
    return Panel(
        "Queries to look at",
        f"On these {kept['split']} queries {other}.",
        (),
        Table(("query", "its document", *heads), rows),
    )


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
