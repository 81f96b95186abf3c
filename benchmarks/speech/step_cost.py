"""Cost of a step of EKD relative to the forward and backward passes of its networks and to a plain loop; the teachers' share of it, and the saving by cached states.

Times are CPU seconds of this process, on one thread. All ways take turns in every round, on the same batches. Other load on the machine slows single rounds, so the table has each way's least time
and the ratios of these, and also the median of the ratios per round with its quartiles. Every way ends with AdamW's step.

    python -m benchmarks.speech.step_cost [--rounds 21]
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from benchmarks.shared import cpu_seconds, grown, markdown, peak_megabytes, ratios, script_parser
from coterie.data.order import Order
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.speech.encoder import EncoderTeachers, SpeechEncoder
from coterie.tasks.speech.data.clips import Clips
from coterie.tasks.speech.data.loaders import SpeechTrainLoader
from coterie.tasks.speech.data.states import CachedStates
from coterie.tasks.speech.settings import SpeechData

RATE, CLIPS, BATCH = 16_000, 8, 4
SECONDS = (1.0, 2.0)
SIZES = {"hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 768, "conv_dim": [96] * 7}
SIZES |= {"num_conv_pos_embeddings": 64, "num_conv_pos_embedding_groups": 8, "apply_spec_augment": False}
LAYERS, STUDENT_LAYERS, LEARNT = 6, 2, [2, 4, 6]
NETWORKS, OURS, PLAIN, CACHED = "networks alone", "ekd", "plain loop", "ekd, states cached"
TEACHERS = "teachers alone"


class Noise:
    """A source of clips of white noise in memory."""

    def __init__(self, lengths: np.ndarray) -> None:
        generator = np.random.default_rng(0)
        self.clips = [0.1 * generator.standard_normal(length, dtype=np.float32) for length in lengths]

    def read(self, number: int, start: int, count: int) -> np.ndarray:
        return self.clips[number][start : start + count]


def make_clips() -> Clips:
    lengths = (np.random.default_rng(1).uniform(*SECONDS, CLIPS) * RATE).astype(np.int64)
    names = [str(number) for number in range(CLIPS)]
    return Clips(Noise(lengths), np.arange(CLIPS), lengths, names, names, {})


def network(layers: int, seed: int) -> HubertModel:
    torch.manual_seed(seed)
    return HubertModel(HubertConfig(**SIZES, num_hidden_layers=layers, layerdrop=0.0))


class Setting:
    """Teachers, student, batches, and the ways to compute one step."""

    def __init__(self) -> None:
        self.clips = make_clips()
        self.teachers = EncoderTeachers([SpeechEncoder(network(LAYERS, seed), False) for seed in (1, 2)])
        self.method = EnsembleKD(
            SpeechEncoder(network(STUDENT_LAYERS, 0), False, 0.1), teachers=self.teachers, layers=LEARNT
        ).train()
        order = Order(CLIPS, BATCH, 0, 0, 1, torch.from_numpy(self.clips.lengths))
        data = SpeechData(name="tones")
        encoder = self.method.encoder
        self.loader = SpeechTrainLoader(self.clips, data, order, torch.device("cpu"), encoder.frames)
        self.batches = [batch.inputs for batch in self.loader.epoch(0)]
        self.indices = [batch.indices for batch in self.loader.epoch(0)]
        self.states = CachedStates(self.clips, self.teachers.each(), self.method.layers, BATCH, 10**9)
        self.size = sum(table.nbytes for table in self.states.tables)
        self.plain = network(STUDENT_LAYERS, 0).train()
        self.plain_teachers = [network(LAYERS, seed).eval() for seed in (1, 2)]
        width = SIZES["hidden_size"]
        self.plain_heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2 * len(LEARNT))
        )
        self.ours_optimizer = torch.optim.AdamW([each for each in self.method.parameters() if each.requires_grad], 1e-4)
        self.plain_optimizer = torch.optim.AdamW([*self.plain.parameters(), *self.plain_heads.parameters()], 1e-4)
        self.pool = ThreadPoolExecutor(1)
        self.gradients: dict[tuple[int, ...], Tensor] = {}

    def taught(self, number: int) -> None:
        batch = self.batches[number]
        self.teachers(batch["waveforms"], batch["lengths"], self.method.layers)

    def networks(self, number: int) -> None:
        """Run teachers forward, and student and heads forward and backward from given gradients."""
        self.taught(number)
        batch = self.batches[number]
        frames = self.method.encoder(batch["waveforms"], batch["lengths"], [STUDENT_LAYERS]).states[0]
        predicted = [heads(frames) for heads in self.method.heads]
        gradients = [self.gradients.setdefault(tuple(each.shape), torch.randn_like(each)) for each in predicted]
        torch.autograd.backward(predicted, gradients)
        self._step(self.ours_optimizer)

    def ours(self, number: int) -> None:
        self._learn(self.batches[number])

    def cached(self, number: int) -> None:
        rows = self.states.read(self.indices[number].tolist(), self.pool)
        self._learn({**self.batches[number], "taught": tuple(each.result() for each in rows)})

    def _learn(self, batch: dict[str, Any]) -> None:
        sum(self.method(batch).values()).backward()  # type: ignore[union-attr]
        self._step(self.ours_optimizer)

    def by_hand(self, number: int) -> None:
        """Make a step as one would write it with transformers alone: an attention mask, the hidden states, a loss of valid frames. Here, normalisation over time includes padding."""
        waveforms, lengths = self.batches[number]["waveforms"], self.batches[number]["lengths"]
        mask = torch.arange(waveforms.shape[1]) < lengths[:, None]
        with torch.no_grad():
            found = [each(waveforms, mask, output_hidden_states=True).hidden_states for each in self.plain_teachers]
        targets = [states[layer] for states in found for layer in LEARNT]
        frames = self.plain(waveforms, mask).last_hidden_state
        valid = torch.arange(frames.shape[1]) < self.method.encoder.frames(lengths)[:, None]
        loss = torch.zeros(())
        for head, target in zip(self.plain_heads, targets, strict=True):
            predicted = head(frames)[valid]
            cosine = F.cosine_similarity(predicted, target[valid], dim=-1)
            loss = loss + F.l1_loss(predicted, target[valid]) - F.logsigmoid(cosine).mean()
        loss.backward()
        self._step(self.plain_optimizer)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = script_parser(__doc__, "output", "rounds", rounds=21)
    parser.add_argument(
        "--way",
        choices=(NETWORKS, OURS, PLAIN, CACHED, TEACHERS),
        help="print how many MB a step of it takes, nothing else",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["COTERIE_CACHE"] = cache
        setting = Setting()
        ways = {
            NETWORKS: setting.networks,
            OURS: setting.ours,
            PLAIN: setting.by_hand,
            CACHED: setting.cached,
            TEACHERS: setting.taught,
        }
        if arguments.way:
            print(peak_megabytes(ways[arguments.way]))
            return
        memory = grown(__file__, ways)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for step in ways.values():
            step(0)
        for turn, number in enumerate(islice(cycle(range(len(setting.batches))), arguments.rounds)):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(cpu_seconds(ways[name], number))
    rows = [
        (
            name,
            f"{min(values):.2f}",
            *(ratios(values, times[to]) for to in (NETWORKS, OURS, PLAIN)),
            f"{memory[name]:.0f}",
            f"{memory[name] / memory[NETWORKS]:.2f}",
        )
        for name, values in times.items()
    ]
    head = (
        "way",
        "CPU seconds a step",
        "over its networks",
        "over ekd",
        "over the plain loop",
        "peak MB",
        "over its networks",
    )
    parameters = sum(each.numel() for each in setting.method.encoder.parameters()) / 1e6
    others = sum(each.numel() for each in setting.teachers.parameters()) / 2e6
    text = (
        f"# What a step of EKD costs\n\nMade by `python -m benchmarks.speech.step_cost`: one thread, float32, torch {torch.__version__}, {arguments.rounds} rounds. Two teachers of {others:.1f} million parameters and "
        f"{LAYERS} layers, a student of {parameters:.1f} million and {STUDENT_LAYERS}, three layers learnt of each teacher by heads; {BATCH} clips of {SECONDS[0]} to {SECONDS[1]} s.\n"
        "Each way's least CPU seconds and the ratios of these; in brackets the median of the rounds' own ratios, with its quartiles. Every way but the teachers' ends with AdamW's step. "
        "`networks alone`: teachers forward, student and heads forward and backward, no loss. `plain loop`: transformers' networks and a loss by hand. Memory: by how much the process grows at most in a step, each way in one of its own.\n"
        f"The cached states take {setting.size / 1e6:.1f} MB for {setting.clips.seconds(RATE):.0f} s of audio; reading them is in the step's time.\n\n"
    )
    path = Path(arguments.output) / "speech" / "step_cost.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + markdown(head, rows), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
