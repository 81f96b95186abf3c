"""Tiny text networks and a data set of films, written by the test itself: nothing is downloaded."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOOD, BAD, REST = ("good", "fine", "great"), ("bad", "poor", "awful"), ("the", "film", "book", "is")
WORDS = (*GOOD, *BAD, *REST)


def save_network(folder: Path, words=WORDS, layers=1, weights=False, class_names=("bad", "good"), seed=0) -> Path:
    """A random BERT of width 16, as transformers saves it, with a tokenizer of whole words in the given order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )
    if weights:
        torch.manual_seed(seed)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    return folder


def save_films(path: Path, count=120, labels=("bad", "good")) -> Path:
    """``the film is good,good``: the last word tells the class."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(count):
            words = (BAD, GOOD)[number % 2]
            writer.writerow([f"the {rng.choice(REST[1:3])} is {rng.choice(words)}", labels[number % len(labels)]])
    return path


@dataclass(frozen=True)
class TextPlace:
    """A folder with networks and data, and recipes that use them."""

    path: Path

    def settings(self, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "task": "text_classification",
            "data": {"name": str(self.path / "films.csv"), "validation": 0.2},
            "network": {"name": str(self.path / "student")},
            "optimizer": {"name": "adamw", "learning_rate": 0.005},
            "training": {"epochs": 1, "batch_size": 16, "device": "cpu"},
            "method": "baseline",
        }
        for key, value in changes.items():
            settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
        return settings

    def taught(self, *names: str) -> dict[str, Any]:
        return {"teachers": [{"network": str(self.path / name)} for name in names or ("teacher", "other")]}


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> TextPlace:
    """Read it, do not write into it. ``other`` is a teacher whose tokenizer numbers the words otherwise."""
    path = tmp_path_factory.mktemp("text")
    save_films(path / "films.csv")
    save_network(path / "student")
    save_network(path / "teacher", layers=2, weights=True)
    save_network(path / "other", words=WORDS[::-1], weights=True, seed=1)
    return TextPlace(path)


@pytest.fixture(scope="session", name="save_network")
def save_network_fixture():
    """:func:`save_network`."""
    return save_network
