"""Sources of a recipe's language models: students, teachers, and the tokenizer that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.files import digest
from coterie.networks.hugging_face import describe_config, read_config, require_embedded
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.language.data.sets import corpus_texts
from coterie.tasks.language.networks import (
    has_safetensors,
    load_causal_lm,
    named,
    read_tokenizer,
    read_values,
)
from coterie.tasks.language.settings import LanguageTeacher, data_of
from coterie.tasks.language.tokenizer import SMALLEST, num_tokens, tokenizer_difference, train_tokenizer

TASK = "language_modeling"
VOCABULARY = 1_024  # of a tokenizer trained on the data: small, since logits take most of a small network's time
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
# A network for a first run: in some minutes on a CPU it learns words and their endings.
SMALL = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
ROOM = 1_024  # positions of that network, or the tokens of a row if these are more


@dataclass(frozen=True)
class LanguageTeacherFound:
    """A loaded teacher: its network, its tokenizer, and what the run records about it."""

    network: nn.Module
    tokenizer: Any
    note: dict[str, Any]


def student_names(recipe: Recipe) -> list[str]:
    """Return the names of the recipe's networks: none (the task's own small network), one, or one per student."""
    name = recipe.network.name
    if not name or name == AUTO:
        return []
    return list(name) if isinstance(name, list) else [name]


def shown_names(recipe: Recipe) -> list[str]:
    """Return the display names of the students' networks."""
    return named(student_names(recipe)) or ["small_llama"]


def has_own_weights(name: str) -> bool:
    """Return whether a student's network comes with readable weights; for a name on the Hub this is assumed."""
    suffix = Path(name).suffix
    return suffix == ".gguf" or (suffix != ".json" and has_safetensors(name))


def _has_tokenizer(name: str) -> bool:
    """Return whether a network comes with a tokenizer; for a name on the Hub this is assumed."""
    path = Path(name).expanduser()
    if path.suffix == ".json":
        return False
    return not path.is_dir() or any((path / each).is_file() for each in TOKENIZER_FILES)


def read_teachers(recipe: Recipe) -> list[LanguageTeacherFound]:
    """Load the recipe's teachers with their weights.

    Raises:
        CoterieError: neither or both of a run and a network are named, the run is of another task, or there are no weights.
    """
    return [_read_teacher(settings) for settings in recipe.all_teachers()]


def _read_teacher(settings: Any) -> LanguageTeacherFound:
    assert isinstance(settings, LanguageTeacher)
    if (settings.run is None) == (settings.network is None):
        raise CoterieError(
            "a teacher is teacher.run=FOLDER, or teacher.network=a folder with its weights, a .gguf file or a name of the Hub"
        )
    dtype: torch.dtype = getattr(torch, settings.dtype)
    if settings.run is not None:
        folder = RunFolder(settings.run).require()
        description = folder.read_description()
        if description.get("task") != TASK:
            raise CoterieError(f"the teacher {settings.run!r} is no run of task={TASK}")
        network = load_student(settings.run).to(dtype)
        name, tokenizer = description["network"], read_tokenizer(folder.tokenizer)
        weights: str | None = digest(folder.student)
    else:
        source = str(settings.network)
        network = load_causal_lm(source, pretrained=True, dtype=dtype)
        name, tokenizer = named([source])[0], read_tokenizer(source)
        weights = _digest_of_weights(Path(source).expanduser())
    require_embedded(network, tokenizer, name)
    note = {"source": settings.run or settings.network, "network": name, "sha256": weights}
    return LanguageTeacherFound(network, tokenizer, {**note, "config": describe_config(network.config)})


def _digest_of_weights(path: Path) -> str | None:
    """Return the SHA-256 of a network's weights, in one file or several; None: they are on the Hub, not in a local folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) < 2:
        return digest(files[0]) if files else None
    return hashlib.sha256("".join(digest(each) for each in files).encode()).hexdigest()


def find_tokenizer(recipe: Recipe, teachers: Sequence[LanguageTeacherFound]) -> tuple[Any, str | None]:
    """Find the tokenizer that students and teachers share.

    Returns:
        The students' tokenizer; if they have none, the teachers'; if these have none either, one trained on the data. And a note if one was trained.

    Raises:
        CoterieError: networks have different tokenizers, or a student has weights but no network has a tokenizer.
    """
    found = {name: read_tokenizer(name) for name in student_names(recipe) if _has_tokenizer(name)}
    found |= {str(each.note["source"]): each.tokenizer for each in teachers}
    if not found:
        return _trained(recipe)
    (first, tokenizer), *others = found.items()
    for name, other in others:
        if difference := tokenizer_difference(tokenizer, other):
            raise CoterieError(
                f"{first!r} and {name!r} have different tokenizers ({difference}); students and teachers need the same one"
            )
    return tokenizer, None


def _trained(recipe: Recipe) -> tuple[Any, str]:
    names = student_names(recipe)
    if recipe.network.pretrained is not False:
        for name in filter(has_own_weights, names):
            raise CoterieError(
                f"{name!r} holds weights and no tokenizer: save the one that they were trained with beside them, or set network.pretrained=false"
            )
    sizes = [_vocabulary_of(name) for name in names]
    given = next((size for size in sizes if size is not None), VOCABULARY)
    if given < SMALLEST:
        raise CoterieError(
            f"a network of {given} tokens: a tokenizer that is trained on the data has at least {SMALLEST}"
        )
    tokenizer = train_tokenizer(corpus_texts(data_of(recipe)), int(given))
    return (
        tokenizer,
        f"a tokenizer of {num_tokens(tokenizer):,} tokens was trained on them, held-out documents included",
    )


def _vocabulary_of(name: str) -> int | None:
    """Return the vocabulary size of a network's configuration, if it has one."""
    path = Path(name).expanduser()
    size = read_values(path).get("vocab_size") if path.suffix == ".json" else read_config(name).vocab_size
    return None if size is None else int(size)


def student_source(recipe: Recipe, number: int, tokenizer: Any) -> str | Mapping[str, Any]:
    """Return the source of student ``number``, see :func:`coterie.tasks.language.networks.load_causal_lm`."""
    names = student_names(recipe)
    if not names:
        room = max(ROOM, data_of(recipe).block_length)
        return {**SMALL, "max_position_embeddings": room, **_tokens_of(tokenizer)}
    name = names[number] if len(names) > 1 else names[0]
    if not name.endswith(".json"):
        return name
    values = read_values(Path(name).expanduser())
    return {**_tokens_of(tokenizer), **values}


def _tokens_of(tokenizer: Any) -> dict[str, Any]:
    """Return the configuration values that the tokenizer determines."""
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {"vocab_size": num_tokens(tokenizer), **marks}
