from __future__ import annotations

import pytest
import torch

from coterie.data.order import Order
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader, SpeechTrainLoader, cut
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.settings import SpeechData

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips():
    return load_sets(SpeechData(name="tones", train_limit=20)).clips["train"]


def loader(clips, process=(0, 1), accumulate=1, **changes):
    settings = SpeechData(**{"name": "tones", "max_seconds": 0.6, **changes})
    order = Order(len(clips), 4, 3, *process, torch.from_numpy(clips.lengths))
    return SpeechTrainLoader(clips, settings, order, CPU, lambda lengths: lengths // 320, accumulate)


def test_batches_of_about_one_length(clips):
    batches = list(loader(clips, max_seconds=2).epoch(0))
    assert sorted(torch.cat([each.indices for each in batches]).tolist()) == list(range(20))
    padding = 1 - sum(int(each.inputs["lengths"].sum()) for each in batches) / sum(
        each.inputs["waveforms"].numel() for each in batches
    )
    assert padding < 0.1
    batch = batches[0]
    for row, index, count in zip(batch.inputs["waveforms"], batch.indices, batch.inputs["lengths"], strict=True):
        assert torch.equal(row[:count], torch.from_numpy(clips.read(int(index))))
        assert (row[count:] == 0).all()
    assert batch.targets.tolist() == [[clips.labels[name][i] for name in ("speaker", "word")] for i in batch.indices]


def test_a_crop_is_a_function_of_seed_epoch_and_clip(clips):
    def seen(epoch, first=0, **changes):
        found = {}
        for batch in loader(clips, **changes).epoch(epoch, first):
            for row, index in enumerate(batch.indices.tolist()):
                found[index] = {name: value[row] for name, value in batch.inputs.items()}
        return found

    first, again, later = seen(0), seen(0), seen(1)
    assert all(torch.equal(first[index]["waveforms"], again[index]["waveforms"]) for index in first)
    longer = [index for index in first if clips.lengths[index] > 0.65 * 16000]
    assert longer
    assert not all(torch.equal(first[index]["waveforms"], later[index]["waveforms"]) for index in longer)
    assert all(int(row["lengths"]) <= 9600 for row in first.values())
    part = seen(0, 3)
    assert len(part) == 8
    assert all(torch.equal(part[index]["waveforms"], first[index]["waveforms"]) for index in part)


def test_longer_clips_are_cut_anywhere(clips):
    indices = torch.arange(20)
    starts = torch.stack([cut(clips, indices, 4000, seed).starts for seed in range(40)])
    ends = torch.from_numpy(clips.lengths) - 4000
    assert (starts.min(0).values < 0.3 * ends).all()
    assert (starts.max(0).values > 0.7 * ends).all()
    assert (starts <= ends).all()
    assert (cut(clips, indices, 4000).starts == 0).all()


@pytest.mark.parametrize("noise", [["white", "pink"], ["babble"]])
def test_distortion_of_one_side_or_both(clips, noise):
    plain = next(iter(loader(clips).epoch(2)))
    student = next(iter(loader(clips, distortion="student", noise=noise, snr=(0, 0)).epoch(2)))
    assert set(student.inputs) == {"waveforms", "lengths", "distorted"}
    assert torch.equal(student.inputs["waveforms"], plain.inputs["waveforms"])
    both = next(iter(loader(clips, distortion="both", noise=noise, snr=(0, 0)).epoch(2)))
    assert set(both.inputs) == {"waveforms", "lengths"}
    assert torch.equal(both.inputs["waveforms"], student.inputs["distorted"])
    added = student.inputs["distorted"] - plain.inputs["waveforms"]
    ratio = added.square().sum(1) / plain.inputs["waveforms"].square().sum(1)
    torch.testing.assert_close(ratio, torch.ones(4), atol=1e-3, rtol=0)
    share = loader(clips, distortion="student", noise=noise, noise_share=0.5)
    heard = [
        torch.equal(row, other)
        for batch in share.epoch(0)
        for row, other in zip(batch.inputs["distorted"], batch.inputs["waveforms"], strict=True)
    ]
    assert 3 < sum(heard) < 17


def test_noise_of_a_folder(clips, tmp_path, tone, monkeypatch):
    import soundfile

    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hum").mkdir()
    soundfile.write(tmp_path / "hum" / "hum.wav", tone(0.3, 16000, 1000.0), 16000)
    settings = SpeechData(name="tones", distortion="student", noise=[str(tmp_path / "hum")], snr=(0, 0), max_seconds=0.6)  # fmt: skip
    order = Order(len(clips), 4, 3)
    found = SpeechTrainLoader(clips, settings, order, CPU, lambda lengths: lengths, noise=load_sets(settings).noise)
    batch = next(iter(found.epoch(0)))
    added = (batch.inputs["distorted"] - batch.inputs["waveforms"])[0, :4800]
    assert abs(torch.fft.rfft(added).abs().argmax().item() * 16000 / 4800 - 1000) < 10


def test_two_processes_share_the_batches_and_weigh_their_frames(clips):
    whole = list(loader(clips).epoch(0))
    halves = [list(loader(clips, (process, 2)).epoch(0)) for process in (0, 1)]
    for one, first, second in zip(whole, *halves, strict=True):
        assert sorted([*first.indices.tolist(), *second.indices.tolist()]) == sorted(one.indices.tolist())
        assert first.weight + second.weight == pytest.approx(2)
        frames = [int((each.inputs["lengths"] // 320).sum()) for each in (first, second)]
        assert first.weight / second.weight == pytest.approx(frames[0] / frames[1])
    together = list(loader(clips, accumulate=5).epoch(0))
    assert sum(each.weight for each in together) == pytest.approx(5)


def test_an_evaluation_sees_every_clip_once(clips):
    settings = SpeechData(name="tones")
    parts = [list(SpeechEvaluationLoader(clips, settings, 3, CPU, process, 3)) for process in range(3)]
    seen = [index for part in parts for batch in part for index in batch.indices.tolist()]
    assert sorted(index for index in seen if index >= 0) == list(range(20))
    assert SpeechEvaluationLoader(clips, settings, 3, CPU, limit=7).num_samples == 7
    lengths = [int(batch.inputs["lengths"][0]) for batch in parts[0]]
    assert lengths == sorted(lengths, reverse=True)
