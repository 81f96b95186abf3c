"""Whether one small encoder that learns from two complementary teachers is better than one that learns from either alone.

Two teachers are trained here with labels, from the same start: one tells words from clean clips, the other one words and speakers in noise. A student of two layers learns from them
without labels, by equal steps in every arm. Linear probes on its frozen features then tell words and speakers apart, clean and at 0 dB, on voices and words that neither teachers nor
students have heard. The claim that holds or not: the mean of the four probes of a student of both teachers is above the best student of one.

    python -m benchmarks.speech.ekd --folder FOLDER [--data tones|espeak] [--seeds 3] [--steps 300]

What is there is not done again. ``table.md`` in the folder holds the arms that have all seeds; it is rewritten after each run.
"""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import nn
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

import coterie
from benchmarks.shared import mean_and_error, script_parser
from coterie.methods.speech.encoder import SpeechEncoder
from coterie.tasks.speech.data.clips import Clips
from coterie.tasks.speech.data.espeak import VOICES, espeak
from coterie.tasks.speech.data.espeak import WORDS as SPOKEN
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader
from coterie.tasks.speech.data.tones import SPEAKERS, WORDS, tones
from coterie.tasks.speech.networks import build_encoder
from coterie.tasks.speech.probe import accuracies, in_noise, pooled
from coterie.tasks.speech.settings import SpeechData

RATE, BATCH = 16_000, 16
SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "conv_dim": [64] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
HELD_WORDS, HELD_VOICES = 4, 3  # heard by nobody before the probes
TEACHERS = {"words": 0, "noisy": 1}
HEARD = {"distortion": "student", "snr": [0, 20], "noise": ["white", "pink", "babble"]}
ARMS: dict[str, dict[str, Any]] = {
    "words alone": {"teachers": ["words"]},
    "noisy alone": {"teachers": ["noisy"]},
    "average": {"teachers": ["words", "noisy"], "method": {"aggregation": "average"}},
    "concatenation": {"teachers": ["words", "noisy"], "method": {"aggregation": "concatenation"}},
    "heads": {"teachers": ["words", "noisy"], "method": {"aggregation": "heads"}},
    "heads, distorted": {"teachers": ["words", "noisy"], "method": {"aggregation": "heads"}, "data": HEARD},
}
FIGURES = [(label, kind) for label in ("word", "speaker") for kind in ("clean", "noisy")]


def all_clips(data: str) -> tuple[Clips, list[str], list[str]]:
    """Clips, and the names of words and voices in the order of their codes."""
    if data == "espeak":
        return espeak(RATE), sorted(SPOKEN), sorted(VOICES)
    return tones(RATE), sorted(WORDS), sorted(SPEAKERS)


def parts(clips: Clips, words: list[str], voices: list[str]) -> tuple[Clips, Clips, Clips]:
    """Clips that are learnt from, and clips of other words and voices for the probes: every other one to learn, the rest to measure."""
    chosen = np.random.default_rng(0)
    held_words = chosen.permutation(len(words))[:HELD_WORDS]
    held_voices = chosen.permutation(len(voices))[:HELD_VOICES]
    new_word, new_voice = np.isin(clips.labels["word"], held_words), np.isin(clips.labels["speaker"], held_voices)
    learnt = clips.take(np.flatnonzero(~new_word & ~new_voice))
    probed = np.flatnonzero(new_word & new_voice)
    order = chosen.permutation(len(probed))
    half = len(probed) // 2
    return learnt, clips.take(np.sort(probed[order[:half]])), clips.take(np.sort(probed[order[half:]]))


def write_clips(clips: Clips, folder: Path) -> Path:
    """The clips that are learnt from, as files and a table; every tenth is validation."""
    table = folder / "clips.csv"
    if table.is_file():
        return table
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(len(clips)):
        soundfile.write(folder / "clips" / f"{number:04}.flac", clips.read(number), RATE)
        rows.append([f"clips/{number:04}.flac", "validation" if number % 10 == 0 else "train"])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], *rows])
    return table


def batches(clips: Clips, steps: int, seed: int):
    """Random batches with labels, as an evaluation prepares them."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = clips.take(rng.permutation(len(clips))[:BATCH])
        yield next(iter(SpeechEvaluationLoader(chosen, SpeechData(), BATCH, torch.device("cpu"))))


def train_teacher(name: str, clips: Clips, folder: Path, steps: int) -> Path:
    """A teacher by labels: of words, clean; or of words and speakers, half of the clips in noise."""
    place = folder / "teachers" / name
    if (place / "preprocessor_config.json").is_file():
        return place
    torch.manual_seed(0)
    encoder = SpeechEncoder(HubertModel(HubertConfig(**SIZES)), normalize=False).train()
    labels = ["word"] if name == "words" else ["word", "speaker"]
    heads = nn.ModuleDict(
        {label: nn.Linear(SIZES["hidden_size"], 1 + int(clips.labels[label].max())) for label in labels}
    )
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    columns = list(clips.labels)
    for step, batch in enumerate(batches(clips, steps, seed=1)):
        lengths, heard = batch.inputs["lengths"], batch.inputs["waveforms"]
        if name == "noisy" and step % 2:
            heard = in_noise(batch)
        frames = encoder(heard, lengths, [encoder.num_layers])
        inside = frames.valid[..., None].float()
        mean = (frames.states[0] * inside).sum(1) / inside.sum(1)
        loss = sum(F.cross_entropy(heads[label](mean), batch.targets[:, columns.index(label)]) for label in labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    print(f"teacher {name}: last loss {loss.item():.3f}", flush=True)
    encoder.plain().save_pretrained(place)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(place)
    return place


def probes(encoder: SpeechEncoder, train: Clips, test: Clips) -> dict[str, float]:
    """Shares by label and condition."""
    settings = SpeechData()
    loaders = [SpeechEvaluationLoader(each, settings, BATCH, torch.device("cpu")) for each in (train, test)]
    named = {"own": encoder.eval()}
    sets = [pooled(named, loaders[0]), pooled(named, loaders[1]), pooled(named, loaders[1], noisy=True)]
    learnt, clean, noisy = (each["own"] for each in sets)
    found = accuracies(learnt, {"clean": clean, "noisy": noisy}, list(train.labels))
    return {f"{label} {kind}": found[label][kind] for label, kind in FIGURES}


def run(arm: str, seed: int, table: Path, teachers: dict[str, Path], folder: Path, steps: int) -> SpeechEncoder:
    """Train a student and return it."""
    changes = ARMS[arm]
    output = folder / "runs" / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}"
    clips = sum(1 for _ in table.open()) - 1
    epochs = max(1, round(steps / max(1, (clips - -(-clips // 10)) // BATCH)))
    recipe = {
        "task": "speech",
        "data": {"name": str(table), "test": 0, **changes.get("data", {})},
        "network": {"initialize": "fresh"},  # no arm starts from a teacher that another one does not have
        "method": {"name": "ekd", **changes.get("method", {})},
        "teachers": [{"network": str(teachers[each])} for each in changes["teachers"]],
        "optimizer": {"learning_rate": 1e-3},
        "training": {
            "epochs": epochs,
            "batch_size": BATCH,
            "device": "cpu",
            "clip_gradient": 5.0,
            "evaluate_every": epochs,
        },
        "seed": seed,
    }
    resume = (output / "recipe.yaml").is_file()
    coterie.train(recipe, output=output, quiet=True, resume=resume)
    return SpeechEncoder(coterie.load_student(output), normalize=False)


def write_table(results: dict[str, dict[str, float]], folder: Path, seeds: int, data: str, steps: int) -> None:
    """Arms that have all seeds, with standard errors."""
    heads = [f"{label}, {'clean' if kind == 'clean' else '0 dB'}" for label, kind in FIGURES]
    lines = [
        f"# EKD on {data}: linear probes on voices and words not heard before, per cent",
        "",
        f"{seeds} seeds, {steps} steps of {BATCH} clips; mean ± standard error over seeds. Teachers are the same in all. Script: `benchmarks/speech/ekd.py`.",
        "",
        f"| features | {' | '.join(heads)} | mean of the four |",
        f"|---|{'---:|' * (len(heads) + 1)}",
    ]
    for arm in ["random student", *ARMS, *(f"teacher: {name}" for name in TEACHERS)]:
        rows = [results[f"{arm} {seed}"] for seed in range(seeds) if f"{arm} {seed}" in results]
        if len(rows) < (1 if arm.startswith("teacher") else seeds):
            continue
        columns = [[row[f"{label} {kind}"] for row in rows] for label, kind in FIGURES]
        columns.append([statistics.mean(row.values()) for row in rows])
        cells = [mean_and_error(each, 100) for each in columns]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    (folder / "table.md").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=("tones", "espeak"), default="tones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    folder, seeds, steps = arguments.folder, arguments.seeds, arguments.steps
    learnt, train, test = parts(*all_clips(arguments.data))
    table = write_clips(learnt, folder)
    teachers = {name: train_teacher(name, learnt, folder, 2 * steps) for name in TEACHERS}
    kept = folder / "probes.json"
    results: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}

    def keep(name: str, make) -> None:
        if name not in results:
            results[name] = probes(make(), train, test)
            kept.write_text(json.dumps(results, indent=1))
            write_table(results, folder, seeds, arguments.data, steps)
            print(name, {key: round(value, 3) for key, value in results[name].items()}, flush=True)

    for name, place in teachers.items():
        keep(f"teacher: {name} 0", lambda place=place: SpeechEncoder(HubertModel.from_pretrained(place), False))
    for seed in range(seeds):
        sizes = {**SIZES, "model_type": "hubert", "num_hidden_layers": 2}
        keep(f"random student {seed}", lambda seed=seed, sizes=sizes: SpeechEncoder(build_encoder(sizes, seed), False))
        for arm in ARMS:
            keep(f"{arm} {seed}", lambda arm=arm, seed=seed: run(arm, seed, table, teachers, folder, steps))


if __name__ == "__main__":
    main()
