"""Compares an epoch of text classification with transformers' Trainer grouped by length: one model, one data set, one batch size, interleaved.

    python -m benchmarks.texts.speed [--rounds 3]     # writes benchmarks/results/text_speed.md

1,500 texts of 24 tokens on average and at most 121, BERT of 4 layers and 256 channels from scratch, batch 32, AdamW, float32, one thread.
Neither side evaluates or saves within an epoch. The floor of the padding is the share of tokens that are not padding.
"""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import coterie
from benchmarks.shared import RESULTS, script_parser
from coterie.data.nested import batch_size
from coterie.recipe import load_recipe
from coterie.tasks.texts.task import TextClassification

RESULT = RESULTS / "text_speed.md"
TEXTS, LONGEST, BATCH, EPOCHS, WORDS = 1_500, 121, 32, 2, 2_000


def write_texts(path: Path) -> None:
    """Write random words with log-normal text lengths: 22 on average, plus two tokens per text."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(2.9, 0.62, TEXTS).round(), 2, LONGEST - 2).astype(int)
    lengths[0] = LONGEST - 2
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number, length in enumerate(lengths):
            writer.writerow(
                [" ".join(f"w{word}" for word in draw.integers(WORDS, size=length)), ("no", "yes")[number % 2]]
            )


def write_network(folder: Path) -> None:
    """Write a configuration and a tokenizer with one token per word."""
    vocabulary = {
        name: number
        for number, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(WORDS))])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    config.save_pretrained(folder)


def recipe_of(texts: Path, network: Path) -> dict[str, Any]:
    return {
        "task": "text_classification",
        "data": {"name": str(texts), "validation": 0, "test": 0},
        "network": {"name": str(network), "pretrained": False},
        "method": "baseline",
        "optimizer": {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01},
        "training": {"epochs": EPOCHS, "batch_size": BATCH, "device": "cpu"},
    }


def our_seconds(texts: Path, network: Path, folder: Path) -> float:
    """Return the seconds of an epoch."""
    result = coterie.train(recipe_of(texts, network), output=folder, quiet=True)
    return float(result.summary["seconds"]["per_epoch"])


class EpochClock(transformers.TrainerCallback):
    """Measures the seconds between the start and the end of epochs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self.began


def their_seconds(texts: Path, network: Path, folder: Path) -> float:
    """Return the seconds of an epoch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(network)
    with texts.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=LONGEST)["input_ids"]
    data = [
        {"input_ids": tokens, "labels": int(row["label"] == "yes")} for tokens, row in zip(encoded, rows, strict=True)
    ]
    config = transformers.AutoConfig.from_pretrained(network, num_labels=2)
    clock = EpochClock()
    trainer = transformers.Trainer(
        transformers.AutoModelForSequenceClassification.from_config(config),
        transformers.TrainingArguments(
            str(folder),
            per_device_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            learning_rate=5e-4,
            weight_decay=0.01,
            train_sampling_strategy="group_by_length",
            dataloader_drop_last=True,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        ),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds / EPOCHS


def padded_tokens(texts: Path, network: Path) -> tuple[int, int, int]:
    """Return, for the first epoch, the tokens without padding, with padding, and with padding to the longest text of all."""
    from accelerate import Accelerator

    task = TextClassification(load_recipe(recipe_of(texts, network)), Accelerator(cpu=True))
    masks = [batch.inputs[0]["attention_mask"] for batch in task.data.train.epoch(0)]
    return (
        sum(int(mask.sum()) for mask in masks),
        sum(mask.numel() for mask in masks),
        sum(batch_size(mask) for mask in masks) * task.data.info.length,
    )


def main() -> None:
    parser = script_parser(__doc__, "rounds")
    rounds = parser.parse_args().rounds
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_texts(root / "texts.csv")
        write_network(root / "network")
        own, padded, whole = padded_tokens(root / "texts.csv", root / "network")
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(our_seconds(root / "texts.csv", root / "network", root / f"ours{number}"))
            theirs.append(their_seconds(root / "texts.csv", root / "network", root / f"theirs{number}"))
            print(f"round {number}: coterie {ours[-1]:.2f} s, transformers {theirs[-1]:.2f} s", flush=True)
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    lines = [
        "# An epoch of text classification",
        "",
        f"benchmarks/texts/speed.py: {TEXTS:,} texts of {own / (TEXTS // BATCH * BATCH):.0f} tokens on average and at most {LONGEST}, BERT of 4 layers and 256 channels, batch {BATCH},",
        f"float32, one thread of {os.cpu_count()} cores, torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}; {rounds} rounds in turns, the load of a shared machine on both.",
        "",
        "| | seconds an epoch (median) | tokens an epoch |",
        "| --- | --- | --- |",
        f"| coterie | {statistics.median(ours):.2f} | {padded:,} |",
        f"| transformers' Trainer, `group_by_length` | {statistics.median(theirs):.2f} | |",
        f"| floor: no padding | | {own:,} |",
        f"| all padded to the longest text | | {whole:,} |",
        "",
        f"coterie's time in transformers' of the same round: {', '.join(f'{each:.2f}' for each in ratios)}.",
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
