"""Is one small encoder that learns from two complementary teachers better than one that learns from either alone?

Two teachers are trained here with labels, from the same initial weights: one recognises words in clean clips, the other words and speakers in noise. A student of two layers learns from them
without labels, for the same number of steps in every arm. Linear probes on its frozen features then classify words and speakers, clean and at 0 dB, on voices and words that are in the training data of
neither teachers nor students. The claim under test: the mean of the four probes of a student of both teachers is above that of the best student of one.

    python -m benchmarks.speech.ekd --folder FOLDER [--data tones|espeak|letters] [--seeds 3] [--steps 300] [--noisy-teacher both|speakers]

``letters`` are recordings of people who say the letters of their alphabets: the folder ``share/klettres`` of Debian's package klettres-data (GPL-2+), unpacked. The voices of the
probes are not in the training data, but the letters are: each voice says a letter once.

Finished parts are skipped. ``probes.json`` in the folder holds the figures, ``table.md`` the arms that have all seeds; both are written after each run. ``--table`` copies
the table and the figures to benchmarks/results/speech.
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
from benchmarks.shared import RESULTS, mean_and_error, script_parser
from coterie.files import write_text
from coterie.methods.speech.encoder import SpeechEncoder
from coterie.tasks.speech.data.clips import Clips
from coterie.tasks.speech.data.espeak import Spoken, espeak
from coterie.tasks.speech.data.files import resampled
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader
from coterie.tasks.speech.data.tones import tones
from coterie.tasks.speech.networks import build_encoder
from coterie.tasks.speech.probe import Pooled, accuracies, in_noise, pooled
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
HELD_WORDS, HELD_VOICES = {"tones": 4, "espeak": 8}, {"tones": 3, "espeak": 5, "letters": 4}  # in no training data
SPLITS = 10  # of the probes' clips in two halves
SPOKEN = (
    "morning", "river", "seven", "window", "paper", "garden", "yellow", "travel", "music", "doctor", "forest", "kitchen", "number", "silver", "happy", "chicken",
    "market", "orange", "thunder", "bicycle", "village", "pencil", "summer", "hospital",
)  # fmt: skip
VOICES = tuple(
    (name, f"en-us+{name}")
    for name in ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt")
)
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
FILES = dict.fromkeys(("de", "en_GB", "es", "hu", "it", "lt", "nds", "pt_BR"), ALPHABET)
FILES |= {"en": ALPHABET.upper(), "nb": [f"U00{ord(letter):02X}" for letter in ALPHABET]}  # type: ignore[dict-item]
FILES |= {language: [f"a-{number}" for number in range(26)] for language in ("da", "fr")}  # type: ignore[misc]
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
SUFFIX = {"both": "", "speakers": "_complementary"}  # of the table's name
FIGURES = [(label, kind) for label in ("word", "speaker") for kind in ("clean", "noisy")]


def all_clips(data: str, recordings: Path | None) -> Clips:
    if data == "espeak":
        return espeak(RATE, SPOKEN, VOICES)
    return tones(RATE) if recordings is None else letters(recordings)


def letters(folder: Path) -> Clips:
    """Read letters of the Latin alphabet, spoken by KLettres' speakers, at most 1.5 s of each from its onset."""
    voices = sorted(FILES)
    found, names, labels = [], [], {"speaker": [], "word": []}  # type: ignore[var-annotated]
    for voice in voices:
        for code, name in enumerate(FILES[voice]):
            path = folder / voice / "alpha" / f"{name}.ogg"
            if not path.is_file():
                continue
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            clip = resampled(samples.mean(1), rate, RATE)
            loud = np.flatnonzero(np.abs(clip) > 0.05 * np.abs(clip).max())
            clip = clip[max(0, loud[0] - RATE // 20) : loud[-1] + RATE // 20][: RATE * 3 // 2]
            found.append(clip / np.abs(clip).max() * np.float32(0.5))
            names.append(f"{voice} {ALPHABET[code]}")
            labels["speaker"].append(voices.index(voice))
            labels["word"].append(code)
    if not found:
        raise SystemExit(f"no recordings below {folder}; expected en/alpha/A.ogg and its like")
    lengths = np.array([len(clip) for clip in found])
    codes = {key: np.array(values) for key, values in labels.items()}
    return Clips(Spoken(found), np.arange(len(found)), lengths, names, names, codes)


def parts(clips: Clips, data: str) -> tuple[Clips, Clips]:
    """Return training clips, and clips of other words and voices for the probes."""
    chosen = np.random.default_rng(0)
    held = {}
    for label, counts in (("word", HELD_WORDS), ("speaker", HELD_VOICES)):
        codes = chosen.permutation(np.unique(clips.labels[label]))[: counts.get(data, 0)]
        held[label] = np.isin(clips.labels[label], codes) if data in counts else None
    new_word, new_voice = held["word"], held["speaker"]
    if new_word is None:
        return clips.take(np.flatnonzero(~new_voice)), clips.take(np.flatnonzero(new_voice))
    return clips.take(np.flatnonzero(~new_word & ~new_voice)), clips.take(np.flatnonzero(new_word & new_voice))


def write_clips(clips: Clips, folder: Path) -> Path:
    """Write the training clips as files and a table; every tenth is validation."""
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
    """Yield random batches with labels, prepared as in evaluation."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = clips.take(rng.permutation(len(clips))[:BATCH])
        yield next(iter(SpeechEvaluationLoader(chosen, SpeechData(), BATCH, torch.device("cpu"))))


def train_teacher(name: str, clips: Clips, folder: Path, steps: int, noisy_labels: list[str]) -> Path:
    """Train a teacher with labels: of words, clean; or of words and speakers, with half of the clips in noise."""
    place = folder / "teachers" / name
    if (place / "preprocessor_config.json").is_file():
        return place
    torch.manual_seed(0)
    encoder = SpeechEncoder(HubertModel(HubertConfig(**SIZES)), normalize=False).train()
    labels = ["word"] if name == "words" else noisy_labels
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


def probes(encoder: SpeechEncoder, clips: Clips) -> dict[str, float]:
    """Return accuracies by label and condition: means over random halves, one to train and one to test."""
    loader = SpeechEvaluationLoader(clips, SpeechData(), BATCH, torch.device("cpu"))
    named = {"own": encoder.eval()}
    clean, noisy = (pooled(named, loader, noisy=each)["own"] for each in (False, True))
    shares: dict[str, list[float]] = {}
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(clips))
        learnt, measured = order[: len(order) // 2], order[len(order) // 2 :]

        def half(of: Pooled, rows: np.ndarray) -> Pooled:
            return Pooled(of.features[rows], of.labels[rows])

        tests = {"clean": half(clean, measured), "noisy": half(noisy, measured)}
        found = accuracies(half(clean, learnt), tests, list(clips.labels))
        for label, kind in FIGURES:
            shares.setdefault(f"{label} {kind}", []).append(found[label][kind])
    return {key: statistics.mean(values) for key, values in shares.items()}


def run(arm: str, seed: int, table: Path, teachers: dict[str, Path], folder: Path, steps: int) -> SpeechEncoder:
    """Train a student and return it."""
    changes = ARMS[arm]
    output = folder / "runs" / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}"
    clips = sum(1 for _ in table.open()) - 1
    epochs = max(1, round(steps / max(1, (clips - -(-clips // 10)) // BATCH)))
    recipe = {
        "task": "speech",
        "data": {"name": str(table), "test": 0, **changes.get("data", {})},
        "network": {"initialize": "fresh"},  # no arm may start from a teacher that another arm does not have
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


def write_table(
    results: dict[str, dict[str, float]],
    folder: Path,
    seeds: int,
    data: str,
    steps: int,
    heard: int,
    probed: int,
    noisy: str,
) -> None:
    """Write the arms that have all seeds, with standard errors, and paired differences from the best student of one teacher."""
    heads = [f"{label}, {'clean' if kind == 'clean' else '0 dB'}" for label, kind in FIGURES]
    lines = [
        f"# EKD on {data}: linear probes on voices{'' if data == 'letters' else ' and words'} not heard before, per cent",
        "",
        f"{seeds} seeds, {steps} steps of {BATCH} clips, {heard} clips to learn from, {probed} for the probes in {SPLITS} random halves; mean ± standard error over seeds. "
        f"Teachers are the same in all; the one in noise has learnt {noisy}. Script: `benchmarks/speech/ekd.py`.",
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
    means = {arm: _means(results, arm, seeds) for arm in ARMS}
    alone = [arm for arm in ("words alone", "noisy alone") if len(means[arm]) == seeds]
    if len(alone) == 2:
        best = max(alone, key=lambda arm: statistics.mean(means[arm]))
        lines += [
            "",
            f"The best student of one teacher is `{best}`. Mean of the four less its, of the same seed, in points:",
            "",
        ]
        for arm in (each for each in ARMS if each not in alone and len(means[each]) == seeds):
            differences = [ours - theirs for ours, theirs in zip(means[arm], means[best], strict=True)]
            above = sum(each > 0 for each in differences)
            lines.append(f"- {arm}: {mean_and_error(differences, 100)}, above in {above} of {seeds}")
    (folder / "table.md").write_text("\n".join([*lines, ""]))


def _means(results: dict[str, dict[str, float]], arm: str, seeds: int) -> list[float]:
    rows = [results[f"{arm} {seed}"] for seed in range(seeds) if f"{arm} {seed}" in results]
    return [statistics.mean(row.values()) for row in rows]


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=("tones", "espeak", "letters"), default="tones")
    parser.add_argument("--recordings", type=Path, help="of letters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--noisy-teacher",
        choices=("both", "speakers"),
        default="both",
        help="labels of the teacher in noise: words and speakers, or speakers alone",
    )
    parser.add_argument(
        "--table", action="store_true", help="copy table and figures of a finished folder, train nothing"
    )
    arguments = parser.parse_args()
    folder, seeds, steps, data = arguments.folder, arguments.seeds, arguments.steps, arguments.data
    if arguments.table:
        for name, end in (("table.md", "md"), ("probes.json", "json")):
            write_text(
                RESULTS / "speech" / f"ekd_{data}{SUFFIX[arguments.noisy_teacher]}.{end}", (folder / name).read_text()
            )
        return
    if (data == "letters") != (arguments.recordings is not None):
        raise SystemExit("--recordings FOLDER belongs to --data letters")
    learnt, probed = parts(all_clips(data, arguments.recordings), data)
    table = write_clips(learnt, folder)
    labels = ["word", "speaker"] if arguments.noisy_teacher == "both" else ["speaker"]
    teachers = {name: train_teacher(name, learnt, folder, 2 * steps, labels) for name in TEACHERS}
    noisy = " and ".join(f"{label}s" for label in labels)
    kept = folder / "probes.json"
    results: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}

    def keep(name: str, make) -> None:
        if name not in results:
            results[name] = probes(make(), probed)
            kept.write_text(json.dumps(results, indent=1))
            write_table(results, folder, seeds, data, steps, len(learnt), len(probed), noisy)
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
