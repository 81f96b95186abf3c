"""Sources of a recipe's encoders: teacher, student, and a tokenizer for a student without one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.networks.hugging_face import config_of, read_config, require_embedded
from coterie.randomness import derive_seed
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.retrieval.cross.encoder import is_cross_encoder
from coterie.tasks.retrieval.cross.teacher import CrossTeacher, read_cross_teacher
from coterie.tasks.retrieval.encoders import (
    build_encoder,
    cut_encoder,
    encoder_digest,
    is_normalized,
    load_encoder,
    projected,
    require_plain,
    set_length,
    width_of,
)
from coterie.tasks.retrieval.settings import RetrievalTeacher, network_of
from coterie.tasks.retrieval.tokenizers import load_tokenizer, num_tokens, train_tokenizer

VOCABULARY = 8_192  # largest vocabulary of a tokenizer trained on the data
# A student for a first run, the smallest that BERT's authors published (Turc et al., 2019): 2 layers, width 128.
SMALL = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
SMALL_NAME = "small_bert"


@dataclass(frozen=True)
class TeacherFound:
    """A loaded teacher.

    Attributes:
        encoder: encoder of sentence-transformers.
        digest: digest of its weights and settings.
        normalize: whether its vectors are compared by cosine.
        batch_size: texts per batch.
        note: what the run records about it.
    """

    encoder: Any
    digest: str
    normalize: bool
    batch_size: int
    note: dict[str, Any]

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of transformers."""
        return self.encoder.tokenizer


AnyTeacher = TeacherFound | CrossTeacher


def read_teacher(recipe: Recipe) -> AnyTeacher | None:
    """Load the recipe's teacher with its weights; None without a teacher.

    Raises:
        CoterieError: neither or both of a run and a network are named, the run encodes only queries, or a dual encoder has settings of a cross-encoder.
    """
    several = recipe.all_teachers()
    if not several:
        return None
    settings = several[0]
    assert isinstance(settings, RetrievalTeacher)
    if (settings.run is None) == (settings.network is None):
        raise CoterieError(
            "a teacher is teacher.run=FOLDER, or teacher.network=a folder with its weights or a name of the Hub"
        )
    name = str(settings.network)
    crossed = settings.kind == "cross" or (
        settings.kind == "auto" and settings.run is None and (settings.pooling != "none" or is_cross_encoder(name))
    )
    if crossed and settings.run is not None:
        raise CoterieError(
            "teacher.kind=cross: a run's student is a dual encoder; name a cross-encoder by teacher.network"
        )
    if crossed:
        return read_cross_teacher(name, settings, shown(name))
    _require_no_cross_settings(settings)
    if settings.run is not None:
        description = RunFolder(settings.run).require().read_description()
        if description["documents"] == "teacher":
            raise CoterieError(f"the teacher {settings.run!r} encodes queries only; name its own teacher")
        encoder: Any = load_student(settings.run)
        name = description["network"]
    else:
        encoder = load_encoder(name)
        name = shown(name)
    digest, normalize = encoder_digest(encoder), is_normalized(encoder)
    parameters = sum(each.numel() for each in encoder.parameters())
    note = {
        "network": name,
        "digest": digest,
        "width": width_of(encoder),
        "normalized": normalize,
        "parameters": parameters,
    }
    return TeacherFound(encoder, digest, normalize, settings.batch_size, note)


def _require_no_cross_settings(settings: RetrievalTeacher) -> None:
    default = type(settings).model_fields
    for key in ("pooling", "candidates", "scale", "reranked", "epochs", "learning_rate"):
        if (value := getattr(settings, key)) != default[key].default:
            raise CoterieError(f"teacher.{key}={value} is of a cross-encoder, and the teacher is a dual encoder")


def shown(name: str) -> str:
    """Return a display name, without the local path of a folder."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def student_name(recipe: Recipe) -> str | None:
    """Return the name of the recipe's network; None: the task chooses."""
    name = recipe.network.name
    return None if not name or name == AUTO else str(name)


def cuts_teacher(recipe: Recipe) -> bool:
    """Return whether the student is made of some of the teacher's layers."""
    return student_name(recipe) is None and network_of(recipe).layers is not None


def display_name(recipe: Recipe) -> str:
    """Return the display name of the student's network."""
    if cuts_teacher(recipe):
        return f"layers_{'_'.join(map(str, network_of(recipe).layers or ()))}"
    name = student_name(recipe)
    return SMALL_NAME if name is None else shown(name)


def starts_pretrained(recipe: Recipe) -> bool:
    """Return whether training starts from existing weights.

    Raises:
        CoterieError: weights are requested, and there are none.
    """
    wanted, name = recipe.network.pretrained, student_name(recipe)
    if cuts_teacher(recipe):
        has = True
    elif name is None or name.endswith(".json"):
        has = False
    else:
        path = Path(name).expanduser()
        has = not path.is_dir() or any(path.rglob("*.safetensors"))
    if wanted is True and not has:
        raise CoterieError(f"network.pretrained=true, and {name or 'the small network'} has no weights in safetensors")
    return has if wanted == AUTO else bool(wanted)


def build_student(recipe: Recipe, teacher: AnyTeacher | None, texts: Iterable[str]) -> tuple[Any, str | None]:
    """Build the recipe's student before training; if a tokenizer was trained, also return a sentence about it.

    Args:
        recipe: its ``network`` and ``seed`` are read; ``network.pretrained`` is resolved.
        teacher: provides layers, the tokenizer of a student without one, and the width of the vectors.
        texts: texts to train a tokenizer on if there is none.

    Raises:
        CoterieError: layers are selected without weights, the network is not a text encoder, or there is a projection without a teacher.
    """
    settings, seed = network_of(recipe), derive_seed(recipe.seed, "student", 0)
    name, note = student_name(recipe), None
    pooling = "mean" if settings.pooling == "auto" else settings.pooling
    if settings.layers is not None and not settings.pretrained:
        raise CoterieError(
            "network.layers keeps some of the layers of weights, and none are loaded; name a network with weights"
        )
    if cuts_teacher(recipe):
        if teacher is None:
            raise CoterieError(
                "network.layers without network.name takes the teacher's layers, and there is no teacher"
            )
        if isinstance(teacher, CrossTeacher):
            raise CoterieError(
                "network.layers without network.name takes the teacher's layers, and a cross-encoder's read query and document together; set network.name"
            )
        encoder = copy.deepcopy(teacher.encoder)
        set_length(encoder, settings.max_length)
    elif settings.pretrained:
        encoder = load_encoder(str(name), pooling=pooling, max_length=settings.max_length)
    else:
        config, tokenizer = _config_and_tokenizer(name, teacher)
        if tokenizer is None:
            size = min(VOCABULARY, int(config.get("vocab_size", VOCABULARY)))
            tokenizer = train_tokenizer(texts, size)
            note = (
                f"a tokenizer of {num_tokens(tokenizer):,} tokens was trained on all documents and the training queries"
            )
        made = config_of({"vocab_size": num_tokens(tokenizer), "pad_token_id": tokenizer.pad_token_id or 0, **config})
        encoder = build_encoder(made, tokenizer, pooling=pooling, seed=seed, max_length=settings.max_length)
        require_embedded(encoder[0].model, tokenizer, display_name(recipe))
    require_plain(encoder, display_name(recipe))
    if settings.layers is not None:
        encoder = cut_encoder(encoder, settings.layers)
    width = None
    if settings.projection is True and teacher is None:
        raise CoterieError("network.projection=true projects to the teacher's width, and there is no teacher")
    if teacher is not None and settings.projection is not False:
        wanted = teacher.note["width"]
        if wanted is None and settings.projection is True:
            raise CoterieError("network.projection=true projects to the teacher's width, and it gives scores alone")
        width = wanted if settings.projection is True or width_of(encoder) != wanted else None
    return projected(encoder, width, not isinstance(teacher, TeacherFound) or teacher.normalize, seed), note


def _config_and_tokenizer(name: str | None, teacher: AnyTeacher | None) -> tuple[dict[str, Any], Any]:
    """Return the configuration of a network without weights, and its tokenizer: its folder's, else the teacher's; None: there is none."""
    own = None if teacher is None else teacher.tokenizer
    if name is None:
        return SMALL, own
    path = Path(name).expanduser()
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CoterieError(
                f"{name!r} is no JSON file of a configuration: {' '.join(str(error).split())[:160]}"
            ) from None
        if not isinstance(values, dict) or "model_type" not in values:
            raise CoterieError(f"{name!r} names no model_type; expected a configuration's values, such as bert's")
        return values, own
    config = read_config(name).to_dict()
    has_tokenizer = not path.is_dir() or any((path / each).is_file() for each in ("tokenizer.json", "vocab.txt"))
    return config, load_tokenizer(name) if has_tokenizer else own
