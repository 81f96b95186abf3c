"""Arms and sizes of benchmarks/language/ranking.py, and the shared parts of an experiment: text, tokenizer, teacher and its logits, student."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import coterie
from benchmarks.language.ranking_steps import train
from coterie.data.batch import Batch
from coterie.data.order import Order
from coterie.data.stdlib import stdlib_docstrings, stdlib_files
from coterie.files import write_atomically
from coterie.networks.teacher import Teacher, Teachers
from coterie.randomness import derive_seed
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup, example_batch
from coterie.tasks.language.data.loaders import LanguageEvaluationLoader, LanguageTrainLoader
from coterie.tasks.language.data.rows import Rows
from coterie.tasks.language.data.sets import LanguageSets, corpus_texts, load_sets
from coterie.tasks.language.figures import LanguageFigures, top_tokens
from coterie.tasks.language.layers import cut_layers, kept_layers
from coterie.tasks.language.networks import load_causal_lm, read_tokenizer, shared_vocabulary, vocabulary_size
from coterie.tasks.language.settings import LanguageData
from coterie.tasks.language.tokenizer import num_tokens, train_tokenizer

CHOICE_SEED = 100  # for choices on validation
PACKAGES = ("numpy", "scipy", "sklearn", "networkx")  # packages whose docstrings are read
TABLES = "encodings"  # a package of the standard library with character tables, not text
HELD_OUT = {"test": 0.05, "validation": 0.03}  # of the modules


@dataclass(frozen=True)
class Arm:
    """A method of the library with its options. All divergences have temperature 1; only `ce` and `dist` use labels."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    rate_factor: float = 1.0


def divergence_arm(name: str, rate_factor: float = 1.0) -> Arm:
    options = {"temperature": 1.0, "label_weight": 0.0, "distillation_weight": 1.0, "divergence": name}
    return Arm("kd", options, rate_factor)


ARMS = {
    "ce": Arm("baseline"),
    "kl": divergence_arm("forward_kl"),
    "kl_rank5": Arm("rlkd", {"k": 5}),
    "kl_rank10": Arm("rlkd", {"k": 10}),
    "kl_double_rate": divergence_arm("forward_kl", 2.0),
    "rank10": Arm("rlkd", {"k": 10, "divergence": "none"}),
    "kl_pearson5": Arm("rlkd", {"k": 5, "measure": "pearson"}),
    "jsd": divergence_arm("jsd"),
    "jsd_rank5": Arm("rlkd", {"k": 5, "divergence": "jsd"}),
    "rkl": divergence_arm("reverse_kl"),
    "rkl_rank5": Arm("rlkd", {"k": 5, "divergence": "reverse_kl"}),
    "dist": Arm("dist", {"temperature": 1.0, "distillation_weight": 1.0}),
}


@dataclass(frozen=True)
class Setup:
    """Sizes of one experiment."""

    block_length: int
    batch_size: int
    steps: int
    start_steps: int  # pretraining steps of the student, by cross-entropy
    start_rate: float
    rate: float
    documents: int  # number of training documents from which the arms' batches come
    evaluated: dict[str, int]  # rows of the held-out splits
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    teacher: dict[str, Any] | None = None  # sizes; None: from the GGUF file
    teacher_steps: int = 0
    teacher_rate: float = 0.0
    student: dict[str, Any] | None = None  # sizes; None: every third block of the teacher


def llama(width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }


VOCABULARY = 2000  # tokens of the tokenizer trained here
SETUPS = {
    "small": Setup(
        block_length=128,
        batch_size=8,
        steps=250,
        start_steps=150,
        start_rate=3e-3,
        rate=4e-3,
        documents=75,
        evaluated={"validation": 100, "test": 300},
        arms=tuple(ARMS),
        seeds=(1, 2, 3),
        teacher=llama(192, 4),
        teacher_steps=1200,
        teacher_rate=3e-3,
        student=llama(96, 2),
    ),
    "real": Setup(
        block_length=64,
        batch_size=4,
        steps=60,
        start_steps=40,
        start_rate=3e-4,
        rate=1e-3,
        documents=6,
        evaluated={"validation": 16, "test": 64},
        arms=tuple(name for name in ARMS if name not in ("rkl_rank5", "dist")),
        seeds=(1, 2),
    ),
}


def write_corpus(folder: Path) -> None:
    """Write one file per module, in one folder per split: the standard library's source, and other packages' docstrings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {}
    for path in stdlib_files():
        name = path.relative_to(root)
        if name.parts[0] != TABLES:
            texts[f"python.{'.'.join(name.parts)}"] = path.read_text(encoding="utf-8", errors="replace")
    for package in PACKAGES:
        found = find_spec(package)
        if found is None or found.submodule_search_locations is None:
            raise SystemExit(f"{package} is not installed, and its docstrings are part of the text")
        modules: dict[str, list[str]] = {}
        for module, docstring in stdlib_docstrings(Path(found.submodule_search_locations[0])):
            modules.setdefault(module, []).append(docstring)
        texts |= {f"{package}.{module}.txt": "\n\n\n".join(parts) for module, parts in modules.items()}
    names = sorted(texts)
    order = np.random.default_rng(derive_seed(0, "modules")).permutation(len(names))
    ends = np.cumsum([round(share * len(names)) for share in HELD_OUT.values()])
    for split, numbers in zip([*HELD_OUT, "train"], np.split(order, ends), strict=True):
        (folder / split).mkdir(parents=True)
        for number in numbers:
            (folder / split / names[number]).write_text(texts[names[number]], encoding="utf-8")


def save_whole(network: Any, folder: Path) -> None:
    """Call ``save_pretrained`` atomically: the folder is complete or does not exist."""
    part = folder.with_name(f"{folder.name}.part")
    network.save_pretrained(part)
    part.rename(folder)


class Remembered(nn.Module):
    """Replaces a teacher by its logits for the rows that arms are trained on, read from a file.

    Args:
        logits: float32 [rows, L - 1, V].
    """

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.from_numpy(self.logits[inputs["rows"].numpy()]).flatten(0, 1)
        return logits, logits.new_empty(len(logits), 0), logits.new_empty(len(logits), 1, 0)


class Ground:
    """The parts that all arms of an experiment share. Each is made once and kept in the experiment's folder.

    Args:
        name: name of the setup.
        setup: its sizes.
        runs: folder of all experiments.
        gguf: file of the teacher, if the setup does not train one.
    """

    def __init__(self, name: str, setup: Setup, runs: Path, gguf: Path | None) -> None:
        self.name, self.setup, self.gguf = name, setup, gguf
        self.folder = runs / name
        corpus = runs / "corpus"
        if not corpus.is_dir():
            write_corpus(runs / "corpus.part")
            (runs / "corpus.part").rename(corpus)
        self.data = LanguageData(name=str(corpus), block_length=setup.block_length)
        self.sets = load_sets(self.data, self.tokenizer)
        self.vocabulary: int | None = None  # all logits: student and teacher have equally many

    @cached_property
    def tokenizer(self) -> Any:
        folder = self.folder / "tokenizer"
        if not folder.is_dir():
            made = read_tokenizer(self._gguf()) if self.setup.teacher is None else self._trained_tokenizer()
            save_whole(made, folder)
        return read_tokenizer(folder)

    def _trained_tokenizer(self) -> Any:
        return train_tokenizer(corpus_texts(self.data), VOCABULARY)

    def _gguf(self) -> Path:
        if self.gguf is None:
            raise SystemExit("the teacher of this setup is read from a file: --gguf FILE")
        return self.gguf

    @cached_property
    def _teacher_network(self) -> Any:
        if self.setup.teacher is None:
            return load_causal_lm(self._gguf())
        folder = self.folder / "teacher"
        if not folder.is_dir():
            model = CausalLM(self._new(self.setup.teacher, seed=0))
            method = coterie.create_method("baseline", LanguageGroup([model]))
            batches = self._all_batches(self.sets, seed=0)
            trained = train(method, batches, self.setup.teacher_rate, self.setup.teacher_steps)
            print(self.name, "teacher", trained, flush=True)
            save_whole(model.plain(), folder)
        return load_causal_lm(folder)

    def _new(self, sizes: dict[str, Any], seed: int) -> nn.Module:
        return load_causal_lm({**sizes, "vocab_size": num_tokens(self.tokenizer)}, seed=seed)

    def teacher(self) -> CausalLM:
        return CausalLM(self._teacher_network).eval()

    def new_student(self, seed: int) -> nn.Module:
        """Build a student, untrained, or cut from the teacher and then equal for all seeds."""
        if self.setup.student is not None:
            return self._new(self.setup.student, seed)
        folder = self.folder / "cut"
        if not folder.is_dir():
            teacher = self._teacher_network
            student = cut_layers(teacher, kept_layers(teacher.config.num_hidden_layers, every=3))
            shared_vocabulary(self.tokenizer, {"teacher": teacher, "student": student})
            save_whole(student, folder)
        return load_causal_lm(folder)

    def _all_batches(self, sets: LanguageSets, seed: int) -> Iterator[Batch]:
        """Yield batches of full rows, epoch after epoch. The last row is left out, since it may be short."""
        rows = sets.rows["train"]
        order = Order(whole_rows(rows), self.setup.batch_size, seed)
        loader = LanguageTrainLoader(rows, order, torch.device("cpu"))
        for epoch in count():
            yield from loader.epoch(epoch)

    def start_batches(self, seed: int) -> Iterator[Batch]:
        return self._all_batches(self.sets, derive_seed(seed, "start"))

    @cached_property
    def arm_sets(self) -> LanguageSets:
        """Return the documents whose rows the arms are trained on. They are few, since the teacher's logits for them are stored."""
        return load_sets(self.data.model_copy(update={"train_limit": self.setup.documents}), self.tokenizer)

    def batches(self, seed: int) -> Iterator[Batch]:
        return self._all_batches(self.arm_sets, seed)

    @cached_property
    def _logits(self) -> Any:
        """Return the teacher's logits, [rows, L - 1, V]."""
        path, rows = self.folder / "teacher_logits.npy", self.arm_sets.rows["train"]
        if not path.is_file():
            teacher, number = self.teacher(), whole_rows(rows)
            shape = (number, self.setup.block_length - 1, vocabulary_size(teacher.network))

            def write(temporary: Path) -> None:
                kept = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
                loader = LanguageEvaluationLoader(rows, 8, torch.device("cpu"))
                loader.indices = loader.indices[loader.indices < number]  # without a short last row
                for batch in loader:
                    with torch.no_grad():
                        logits = teacher(batch.inputs)[0]
                    kept[batch.indices.numpy()] = logits.view(len(batch.indices), *shape[1:]).numpy()
                kept.flush()

            write_atomically(path, write)
        return np.load(path, mmap_mode="r")

    def teachers(self) -> Teachers:
        """Return the teacher with stored logits, for a method."""
        example = {**example_batch(self.setup.block_length), "rows": torch.tensor([0, 1])}
        return Teachers([Teacher(Remembered(self._logits), example, name="teacher", in_parts=True)])

    def _held_out(self, split: str) -> LanguageEvaluationLoader:
        """Return a loader of rows spread over the split."""
        rows, limit = self.sets.rows[split], self.setup.evaluated[split]
        return LanguageEvaluationLoader(rows, self.setup.batch_size, torch.device("cpu"), limit=limit)

    def teacher_top(self, split: str) -> list[Tensor]:
        """Return the teacher's likeliest tokens, batch by batch."""
        path = self.folder / f"top_{split}.pt"
        if not path.is_file():
            teacher = self.teacher()
            with torch.no_grad():
                found = [top_tokens(teacher(batch.inputs)[0]) for batch in self._held_out(split)]
            write_atomically(path, lambda temporary: torch.save(found, temporary))
        tops: list[Tensor] = torch.load(path, weights_only=True)
        return tops

    @torch.no_grad()
    def figures(self, model: CausalLM, split: str, against_teacher: bool = True) -> dict[str, float]:
        model.eval()
        figures = LanguageFigures(vocabulary_size(model.network), self.setup.block_length)
        for batch, top in zip(self._held_out(split), self.teacher_top(split), strict=True):
            columns = batch.inputs["positions"] % self.setup.block_length  # all rows have this width
            figures.update(model(batch.inputs)[0], batch.targets, columns, top if against_teacher else None)
        return figures.compute()

    def described(self) -> dict[str, Any]:
        """Describe the text, the teacher and the student for the table."""
        teacher, student = self.teacher(), self.new_student(CHOICE_SEED)
        return {
            "setup": asdict(self.setup),
            "text": f"source of Python {platform.python_version()}'s library, docstrings of {', '.join(PACKAGES)}",
            "documents": {split: len(rows.selection) for split, rows in self.sets.rows.items()},
            "tokens": {split: rows.selection.num_tokens for split, rows in self.sets.rows.items()},
            "arm_rows": whole_rows(self.arm_sets.rows["train"]),
            "evaluated": {split: self._held_out(split).num_samples for split in self.setup.evaluated},
            "notes": list(self.sets.notes),
            "fingerprint": dict(self.sets.fingerprint),
            "parameters": {"teacher": parameters(teacher.network), "student": parameters(student)},
            "vocabulary": vocabulary_size(teacher.network),
            "teacher": {split: self.figures(teacher, split, against_teacher=False) for split in self.setup.evaluated},
        }


def whole_rows(rows: Rows) -> int:
    """Return the number of rows with ``block_length`` tokens; of packed rows, that is all but the last."""
    return int((rows.lengths == rows.block_length).sum())


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
