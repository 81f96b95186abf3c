"""The README.md of an export: what was exported, its figures, how to load it and how it was trained.

It is written from the run folder's files; nothing is loaded or measured.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from coterie.catalogue import NETWORKS
from coterie.export.folder import MARK
from coterie.methods import TABLE
from coterie.recipe import Recipe
from coterie.recipe.sections import DataRecipe, Located
from coterie.tasks import find_part, find_row, sample_of
from coterie.tasks.figures import Figure, figures_of, shown_figures
from coterie.tasks.formats import Format
from coterie.terminal import one_line
from coterie.version import __version__

SHOWN_CLASSES = 50


def shareable_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML without local paths of data and networks: only the last component of a path is kept."""
    changed: dict[str, Any] = {name: getattr(recipe, name) for name in ("data", "network", "teacher")}
    changed = {name: section and _without_places(section) for name, section in changed.items()}
    changed["teachers"] = [_without_places(each) for each in recipe.teachers]
    return recipe.model_copy(update=changed).to_yaml()


def _without_places(section: Located) -> Located:
    def name(place: Any) -> Any:
        if isinstance(place, list):
            return [name(each) for each in place]
        is_path = place and (Path(place).is_absolute() or place.startswith((".", "~")))
        return Path(place).name if is_path else place

    shared = {key: name(place) for key, place in section.located().items()}
    if isinstance(section, DataRecipe):  # data keep only their name
        shared |= dict.fromkeys(shared.keys() - {"name"})
    return section.model_copy(update=shared)


def model_card(
    *,
    format: Format,
    which: str,
    description: dict[str, Any],
    parameters: int,
    recipe: Recipe,
    summary: dict[str, Any],
    environment: dict[str, Any],
    check: str,
    tokenizer_file: bool = False,
    int8: dict[str, Any] | None = None,
    repository: str | None = None,
) -> str:
    """Render the card.

    Args:
        format: one of the task's formats.
        which: student, a student's number, ensemble or method.
        description: description of the exported network, as in ``student.json``; ``networks`` instead of ``network`` for several students.
        parameters: number of parameters of the exported network.
        recipe: the run's settings.
        summary: content of summary.json; missing figures are left out.
        environment: content of environment.json.
        check: what the exported file was compared with, in one sentence; empty if there was nothing to compare.
        tokenizer_file: whether the exported tokenizer can be read with the package tokenizers alone.
        int8: content of ``int8.json`` if the file is quantised.
        repository: ``user/name`` on the Hub, from which the snippets of timm and transformers then load.
    """
    package, _, name = find_row(recipe.task).card.partition(":")
    base, card = (
        resources.files(where).joinpath(file).read_text(encoding="utf-8")
        for where, file in (("coterie.export", "model_card.md.jinja"), (package, name))
    )
    networks = description.get("networks") or [{key: description.get(key) for key in ("network", "options")}]
    names = sorted({each["network"] or "a network of the user's own" for each in networks})
    data = Path(description["data"]).name or description["data"]
    method = description["method"]
    entry = TABLE.get(method)
    # The fence is longer than any run of backticks in the content, so that the content cannot close the block.
    class_names = description.get("class_names", [])
    runs = re.findall("`+", shareable_recipe(recipe) + "".join(map(str, class_names)))
    blocks = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    blocks.filters["one_line"] = lambda name: one_line(str(name))
    return blocks.from_string(card).render(
        base=blocks.from_string(base),
        front_matter=_front_matter(format, names, data, recipe, description, summary, int8),
        fence="`" * max(3, 1 + max(map(len, runs), default=0)),
        mark=MARK,
        format=format.name,
        described=format.described,
        library=find_part(recipe.task, "formats")[0].library,
        which=which,
        networks=networks,
        network=" and ".join(names),
        own_architecture=any(name in NETWORKS for name in names),
        description=description,
        data=data,
        method=method,
        paper=entry.paper if entry is not None else "",
        students=len(summary.get("students", [])),
        parameters=parameters,
        rows=_rows(
            which,
            _shown(recipe.task, description),
            description,
            summary,
            "**this export**" if int8 is None else "before quantisation",
        ),
        columns=[figure.label for figure in _shown(recipe.task, description)],
        split=summary.get("split", "test"),
        class_names=class_names,
        shown_classes=class_names[:SHOWN_CLASSES],
        summary=summary,
        environment=environment,
        recipe=recipe,
        recipe_text=shareable_recipe(recipe),
        samples=f"{sample_of(recipe.task)}s",
        check=check,
        int8=int8,
        tokenizer_file=tokenizer_file,
        repository=repository,
        version=__version__,
    )


def _front_matter(
    format: Format,
    names: list[str],
    data: str,
    recipe: Recipe,
    description: dict[str, Any],
    summary: dict[str, Any],
    int8: dict[str, Any] | None,
) -> str:
    """Returns Hugging Face's metadata without the licence, which the template adds with a comment."""
    task = find_row(recipe.task).pipeline or recipe.task.replace("_", "-")
    tags = [task, "knowledge-distillation", "coterie", description["method"]]
    first = figures_of(recipe.task)[0]
    metric = first.metric or first.key
    matter: dict[str, Any] = {
        "library_name": format.library,
        "pipeline_tag": task,
        "tags": tags + (["timm"] if format.library == "timm" else []),
        "metrics": [metric],
    }
    scheme = next((each for each in ("hf://", "hf-text://") if recipe.data.name.startswith(each)), None)
    dataset = recipe.data.name.removeprefix(scheme) if scheme else data
    if dataset != data:
        matter["datasets"] = [dataset]
    if description["figures"]:
        value = description["figures"][first.key] if int8 is None else int8[f"int8_{first.key}"]
        result = {
            "task": {"type": task},
            "dataset": {"name": data, "type": dataset, "split": summary.get("split", "test")},
            "metrics": [{"type": metric, "name": first.label, "value": round(value, 6)}],
        }
        matter["model-index"] = [{"name": f"{'-'.join(names)}-{description['method']}-{data}", "results": [result]}]
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip()


def _rows(
    which: str, shown: list[Figure], description: dict[str, Any], summary: dict[str, Any], this: str
) -> list[tuple[str, list[str]]]:
    """Returns the rows of the table of figures: the export first, then the networks to compare it with."""
    ensembles = summary.get("ensemble", {})
    candidates = {
        this: description["figures"],
        "mean of the students": summary.get("mean_student"),
        "ensemble, mean probability": ensembles.get("mean_probability") if which != "ensemble" else None,
        "ensemble, the method's rule": ensembles.get("method") if which != "method" else None,
    }
    if len(summary.get("students", [])) < 2:
        candidates = {this: description["figures"]}
    return [
        (name, [each.show(values[each.key]) if each.key in values else "–" for each in shown])
        for name, values in candidates.items()
        if values
    ]


def _shown(task: str, description: dict[str, Any]) -> list[Figure]:
    return shown_figures(figures_of(task), description["figures"].keys(), description.get("num_classes", 0))
