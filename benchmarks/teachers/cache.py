"""Time saved by computing teacher logits once, if samples are the same in every epoch.

    python -m benchmarks.teachers.cache [--device cuda] [--epochs 30] [--output DIR]

Images: CIFAR shape without augmentation, ResNet-32 taught by a ResNet-56 (KD). Texts: 64 tokens, a transformer of 3 layers taught by
one, or by three (RL-KD), of 12 layers, all of width 256 and with random weights. Steps with and without the cache are timed in turn;
the pass over all training samples that fills the cache is timed separately and spread over the epochs.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fixed import fixed
from benchmarks.shared import script_parser
from benchmarks.speed.steps import synthetic

SAMPLES, WORDS, LENGTH = 2_000, 500, 64


def text_network(folder: Path, layers: int) -> Path:
    """Write a BERT with its weights and a word-level tokenizer, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])  # fmt: skip
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=LENGTH,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def write_texts(path: Path) -> Path:
    generator = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(SAMPLES):
            words = " ".join(f"w{each}" for each in generator.integers(0, WORDS, LENGTH - 2))
            writer.writerow([words, ("no", "yes")[number % 2]])
    return path


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    import timm
    from safetensors.torch import save_file

    from coterie.networks.papers.registration import register

    register()
    weights = folder / "resnet56.safetensors"
    save_file(timm.create_model("resnet56_cifar", num_classes=100).state_dict(), weights)
    root = synthetic(folder / "images", SAMPLES)
    images = {
        "data": {"name": "cifar100", "root": str(root), "flip": False, "crop_padding": 0},
        "network": {"name": "resnet32_cifar"},
        "method": {"name": "kd"},
        "teacher": {"network": "resnet56_cifar", "weights": str(weights)},
        "training": {"batch_size": 128},
    }
    student, teacher = text_network(folder / "student", 3), text_network(folder / "teacher", 12)
    texts = {
        "task": "text_classification",
        "data": {"name": str(write_texts(folder / "texts.csv"))},
        "network": {"name": str(student)},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "training": {"batch_size": 32},
    }
    return {
        "images, KD": images,
        "texts, KD": {**texts, "method": {"name": "kd"}, "teacher": {"network": str(teacher)}},
        "texts, RL-KD with three teachers": {
            **texts,
            "method": {"name": "rl_kd"},
            "teachers": [{"network": str(teacher)} for _ in range(3)],
        },
    }


def main() -> None:
    from coterie.benchmark.measure import Subject
    from coterie.benchmark.timing import interleaved, seconds
    from coterie.recipe import load_recipe

    parser = script_parser(__doc__, "device", "output")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        "# Teachers that are asked once",
        "",
        f"{machine}, torch {torch.__version__}, float32. Epoch: {arguments.epochs} of them, the pass over all samples in the first one included.",
        "",
        "| | step that asks, ms | step that remembers, ms | ratio | first pass, s | epochs, ratio |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, case in cases(folder).items():
            training = {**case["training"], "device": arguments.device, "epochs": arguments.epochs}
            subjects = {
                cached: Subject(
                    load_recipe(fixed({**case, "training": {**training, "cache_teachers": cached}})),
                    folder / f"{label}{cached}",
                )
                for cached in (False, True)
            }
            device = subjects[True].device
            calls = {"asks": subjects[False].step, "remembers": subjects[True].step}
            times = interleaved(calls, device, 7)
            first = seconds(subjects[True].trainer.prepare, 1, device)
            steps = arguments.epochs * subjects[True].task.data.train.steps_per_epoch
            asks, remembers = times["asks"].median, times["remembers"].median
            whole = steps * asks / (steps * remembers + first)
            lines.append(f"| {label} | {1e3 * asks:.0f} | {1e3 * remembers:.0f} | {asks / remembers:.2f} | {first:.1f} | {whole:.2f} |")  # fmt: skip
            print(lines[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"teacher_cache_{arguments.device}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
