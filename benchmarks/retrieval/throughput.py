"""Compares a training step with sentence-transformers' trainer and its own losses, and encoding with its `encode`: one model, the same texts, interleaved.

    python -m benchmarks.retrieval.throughput [--rounds 5] [--pairs 512] [--texts 2000]     # writes benchmarks/results/retrieval/throughput.md

Times are CPU time of this process (`time.process_time`), which excludes the load of other processes, on one thread in float32. BERT of 4 layers and 256 channels with initial
weights, docstrings of Python's standard library, at most 128 tokens, batch 32, AdamW. Both sides start from the same folder.

- `contrastive` against `MultipleNegativesRankingLoss`: both sides of a pair are encoded.
- `embed_distill onehot=0 score=0 network.documents=teacher` against `EmbedDistillLoss(distance_metric="l2")`: queries alone, matched with a teacher's vectors.
- encoding: tokens and vectors of documents, as an evaluation computes them, against `encode_document` with the same batch.

There is no table yet: it needs an idle machine. The script needs the package `datasets`, as the other trainer does.

For training, only the epochs are compared. The preparation before (here: tokenising all texts once, and the teacher's vectors) has its own column, since the other trainer tokenises
each batch in the epoch. Neither side evaluates or saves within an epoch. coterie's batches hold texts of similar length; those of the other trainer are random, which is its default.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from accelerate import Accelerator

import coterie
from benchmarks.shared import RESULTS, script_parser
from coterie.networks.hugging_face import config_of
from coterie.tasks.retrieval.data.docstrings import docstring_pairs
from coterie.tasks.retrieval.data.tokens import TokenTable
from coterie.tasks.retrieval.encoders import build_encoder, projected
from coterie.tasks.retrieval.evaluation import TOGETHER, encoded
from coterie.tasks.retrieval.tokenizers import num_tokens, train_tokenizer
from coterie.tasks.retrieval.tower import Tower
from coterie.training.loop import Trainer

RESULT = RESULTS / "retrieval" / "throughput.md"
BATCH, LONGEST, EPOCHS, RATE = 32, 128, 2, 1e-4
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
MATCHING = {"name": "embed_distill", "onehot": 0, "score": 0}
KINDS = {"contrastive": "MultipleNegativesRankingLoss", "embed_distill, matching alone": 'EmbedDistillLoss("l2")'}


def write_pairs(folder: Path, pairs: int) -> list[tuple[str, str]]:
    """Write the pairs to a file, and two encoders next to it, the student's and a teacher's."""
    documents, queries, _ = docstring_pairs()
    chosen = [queries[number * len(queries) // pairs] for number in range(pairs)]
    found = [(each.text, documents.texts[each.relevant[0][0]]) for each in chosen]
    rows = [json.dumps({"query": query, "document": document}) for query, document in found]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    tokenizer = train_tokenizer(documents.texts, 4_096)
    config = config_of({"model_type": "bert", "vocab_size": num_tokens(tokenizer), **SIZES})
    for name, seed in (("student", 0), ("teacher", 1)):
        encoder = projected(build_encoder(config, tokenizer, seed=seed, max_length=LONGEST), None, True, seed)
        encoder.save_pretrained(str(folder / name))
    return found


def our_seconds(folder: Path, kind: str) -> tuple[float, float]:
    """Return the CPU seconds of an epoch, and those of the rest of the run."""
    matches = kind != "contrastive"
    recipe = {
        "task": "retrieval",
        "data": {"name": str(folder / "pairs.jsonl"), "validation": 0, "test": 0},
        "network": {"name": str(folder / "student"), "documents": "teacher" if matches else "student"},
        "method": MATCHING if matches else {"name": "contrastive"},
        **({"teacher": {"network": str(folder / "teacher")}} if matches else {}),
        "optimizer": {"name": "adamw", "learning_rate": RATE},
        "training": {"epochs": EPOCHS, "batch_size": BATCH, "device": "cpu"},
    }
    original, took = Trainer._train_epoch, []

    def timed(self: Trainer, *arguments: Any) -> None:
        began = time.process_time()
        original(self, *arguments)
        took.append(time.process_time() - began)

    Trainer._train_epoch = timed  # type: ignore[method-assign]
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as place:
            coterie.train(recipe, output=Path(place) / "run", quiet=True)
    finally:
        Trainer._train_epoch = original  # type: ignore[method-assign]
    return sum(took) / EPOCHS, time.process_time() - began - sum(took)


class Clock(transformers.TrainerCallback):
    """Measures the CPU seconds of all epochs, batches included."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.process_time() - self.began


def their_seconds(folder: Path, kind: str, pairs: list[tuple[str, str]]) -> float:
    """Return the CPU seconds of an epoch."""
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss, MultipleNegativesRankingLoss

    model = SentenceTransformer(str(folder / "student"), device="cpu")
    queries, documents = (list(each) for each in zip(*pairs, strict=True))
    if kind == "contrastive":
        columns: dict[str, Any] = {"query": queries, "document": documents}
        loss: Any = MultipleNegativesRankingLoss(model)
    else:
        teacher = SentenceTransformer(str(folder / "teacher"), device="cpu")
        columns = {"query": queries, "label": teacher.encode_query(queries).tolist()}
        loss = EmbedDistillLoss(model, distance_metric="l2")
    data = Dataset(InMemoryTable.from_pydict(columns), fingerprint="pairs")  # avoids hashing the data in memory
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        arguments = Arguments(
            place,
            per_device_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            learning_rate=RATE,
            dataloader_drop_last=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
        trainer.add_callback(clock)
        trainer.train()
    return clock.seconds / EPOCHS


def encoding_seconds(folder: Path, texts: list[str]) -> tuple[float, float]:
    """Return the CPU seconds to encode all texts, ours and theirs."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(folder / "student"), device="cpu").eval()
    began = time.process_time()
    table = TokenTable(texts, encoder, "document")
    ours = encoded(Tower(encoder).eval(), table, np.arange(len(texts)), Accelerator(cpu=True))
    between = time.process_time()
    theirs = encoder.encode_document(texts, batch_size=TOGETHER, show_progress_bar=False, convert_to_tensor=True)
    after = time.process_time()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    return between - began, after - between


def ratio_text(pairs: list[tuple[float, float]]) -> str:
    """Format the median of the rounds' ratios, and all ratios."""
    ratios = [ours / theirs for ours, theirs in pairs]
    return f"**{statistics.median(ratios):.2f}** ({', '.join(f'{each:.2f}' for each in ratios)})"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--texts", type=int, default=2_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| | coterie, CPU s | sentence-transformers, CPU s | ratio, median (each round) | goal | before: coterie |", "|---|---|---|---|---|---|"]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["COTERIE_CACHE"] = str(folder / "cache")
        pairs = write_pairs(folder, arguments.pairs)
        documents, _, _ = docstring_pairs()
        texts = [documents.texts[number % len(documents)] for number in range(arguments.texts)]
        for kind, theirs in KINDS.items():
            found, besides = [], []
            for number in range(arguments.rounds + 1):
                ours, before = our_seconds(folder, kind)
                other = their_seconds(folder, kind, pairs)
                if number:  # the first warms up both
                    found.append((ours, other))
                    besides.append(before)
                print(kind, ours, other, flush=True)
            steps = len(pairs) // BATCH
            lines.append(
                f"| a step, `{kind}` beside `{theirs}` | {statistics.median(a for a, _ in found) / steps:.3f} | {statistics.median(b for _, b in found) / steps:.3f} "
                f"| {ratio_text(found)} | 1.00 | {statistics.median(besides):.1f} s |"
            )
        encoding_seconds(folder, texts[:TOGETHER])
        found = [encoding_seconds(folder, texts) for _ in range(arguments.rounds)]
        lines.append(
            f"| encoding {len(texts):,} documents | {statistics.median(a for a, _ in found):.2f} | {statistics.median(b for _, b in found):.2f} "
            f"| {ratio_text(found)} | 1.05 | |"
        )
    head = (
        f"# Retrieval: a step and encoding beside sentence-transformers\n\nbenchmarks/retrieval/throughput.py: {arguments.pairs} pairs of docstrings, at most {LONGEST} tokens, BERT of "
        f"4 layers and 256 channels, batch {BATCH}, AdamW, float32, one thread of {os.cpu_count()} cores of a shared machine, torch {torch.__version__}, "
        f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}. CPU times of one process, {arguments.rounds} rounds in turns, medians. "
        "coterie tokenises all texts once, before the first step (with loading, the final evaluation and saving in the last column), and its batches hold texts of about one length; "
        "the other trainer tokenises each batch and draws at random.\n\n"
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(head + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
