from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from coterie.data.order import Order
from coterie.errors import CoterieError
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.speech.encoder import EncoderTeachers, SpeechEncoder
from coterie.tasks.speech.data import states
from coterie.tasks.speech.data.loaders import SpeechTrainLoader
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.data.states import CachedStates, encoder_digest
from coterie.tasks.speech.settings import SpeechData

LONG = 10**6


@pytest.fixture(scope="module")
def clips():
    return load_sets(SpeechData(name="tones", train_limit=10)).clips["train"]


@pytest.fixture(scope="module")
def encoder(tiny):
    def build(seed, normalize=False, **values):
        torch.manual_seed(seed)
        plain = {"apply_spec_augment": False, "layerdrop": 0.0}
        network = AutoModel.from_config(AutoConfig.for_model(**{**tiny(**plain), **values}))
        return SpeechEncoder(network, normalize).eval()

    return build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / states.FOLDER


def test_states_are_the_teachers_in_bfloat16(clips, encoder, cache):
    teachers = [encoder(1), encoder(2, True, hidden_size=24)]
    layers = [[1, 3], [0]]
    cached = CachedStates(clips, teachers, layers, 4, LONG)
    size = int(teachers[0].frames(torch.from_numpy(clips.lengths)).sum()) * (2 * 16 + 24) * 2
    said = f"{size / 1000:.1f} kB in the cache folder, are computed before the first step (2 of 2 teachers)"
    assert said in cached.explain()
    indices = [7, 0, 7]
    with ThreadPoolExecutor(1) as pool:
        found = [each.result() for each in cached.read(indices, pool)]
    assert [each.shape[2:] for each in found] == [(2, 16), (1, 24)]
    for teacher, chosen, rows in zip(teachers, layers, found, strict=True):
        for index, row in zip(indices, rows, strict=True):
            clip = torch.from_numpy(clips.read(index))
            with torch.no_grad():
                own = teacher(clip[None], torch.tensor([len(clip)]), chosen).states
            for place, state in enumerate(own):
                torch.testing.assert_close(row[: state.shape[1], place].float(), state[0], atol=1e-6, rtol=2**-8)
            assert (row[own[0].shape[1] :] == 0).all()
    assert sorted(each.suffix for each in cache.iterdir()) == [".npy", ".npy"]
    assert sum(each.stat().st_size for each in cache.iterdir()) == size + 2 * 128  # of numpy's head


def test_they_are_computed_once_for_a_teacher_and_clips(clips, encoder, cache, monkeypatch):
    teacher = encoder(1)
    first = CachedStates(clips, [teacher], [[1]], 4, LONG).tables[0]
    asked = []
    fill = CachedStates._fill
    monkeypatch.setattr(CachedStates, "_fill", lambda self, *rest: (asked.append(len(rest[-1])), fill(self, *rest)))
    again = CachedStates(clips, [teacher], [[1]], 4, LONG)
    assert again.explain().endswith("are read from there")
    assert np.array_equal(again.tables[0], first)
    assert not asked
    assert CachedStates(clips, [teacher], [[1]], 3, LONG).explain().endswith("are read from there")
    others = {
        "layer": CachedStates(clips, [teacher], [[2]], 4, LONG),
        "weights": CachedStates(clips, [encoder(3)], [[1]], 4, LONG),
        "normalisation": CachedStates(clips, [encoder(1, True)], [[1]], 4, LONG),
        "clips": CachedStates(clips.take(np.arange(9)), [teacher], [[1]], 4, LONG),
    }
    for name, each in others.items():
        assert "(1 of 1 teachers)" in each.explain(), name


def test_an_interrupted_computation_goes_on(clips, encoder, cache, monkeypatch):
    monkeypatch.setattr(states, "PART", 3)
    whole = np.array(CachedStates(clips, [encoder(1)], [[1]], 2, LONG).tables[0])
    for each in cache.iterdir():
        each.unlink()
    fill, asked = CachedStates._fill, []

    def dying(self, table, number, chosen):
        if len(asked) == 4:  # in the third part
            raise KeyboardInterrupt
        asked.append(len(chosen))
        fill(self, table, number, chosen)

    with monkeypatch.context() as patch:
        patch.setattr(CachedStates, "_fill", dying)
        cached = CachedStates(clips, [encoder(1)], [[1]], 2, LONG)
        with pytest.raises(KeyboardInterrupt):
            _ = cached.tables
    assert asked == [2, 1, 2, 1]
    monkeypatch.setattr(CachedStates, "_fill", lambda *rest: (asked.append(len(rest[-1])), fill(*rest)))
    again = CachedStates(clips, [encoder(1)], [[1]], 2, LONG).tables[0]
    assert asked == [2, 1, 2, 1, 2, 1, 1]
    assert np.array_equal(again, whole)


def test_a_network_is_known_by_its_weights(encoder):
    first, same = encoder(1), encoder(1)
    assert encoder_digest(first) == encoder_digest(same)
    with torch.no_grad():
        next(iter(same.network.parameters())).view(-1)[0] += 1e-3
    assert encoder_digest(first) != encoder_digest(same)


@pytest.mark.parametrize("distortion", ["none", "student"])
@pytest.mark.parametrize("aggregation", ["heads", "average"])
def test_a_cached_loss_is_the_uncached_one(clips, encoder, cache, distortion, aggregation):
    teachers = EncoderTeachers([encoder(1), encoder(2, True)])
    torch.manual_seed(0)
    method = EnsembleKD(encoder(9, num_hidden_layers=1), teachers=teachers, aggregation=aggregation).eval()
    order = Order(len(clips), 4, 3, 0, 1, torch.from_numpy(clips.lengths))
    data = SpeechData(name="tones", distortion=distortion)
    loader = SpeechTrainLoader(clips, data, order, torch.device("cpu"), lambda lengths: lengths // 320)
    plain = [method(batch.inputs)["distillation"] for batch in loader.epoch(0)]
    loader.states = CachedStates(clips, teachers.each(), method.layers, 4, LONG)
    assert len(loader.states.tables) == 2

    def silent(*inputs):
        raise AssertionError("a teacher was asked")

    for each in teachers.each():
        each.forward = silent
    cached = [method(batch.inputs)["distillation"] for batch in loader.epoch(0)]
    assert len(plain) == len(cached) == 2
    torch.testing.assert_close(torch.stack(cached), torch.stack(plain), atol=0, rtol=2**-9)  # bfloat16 rounds by 2^-9
    assert not torch.equal(torch.stack(cached), torch.stack(plain))


def test_clips_that_are_cut_are_refused(clips, encoder):
    with pytest.raises(CoterieError, match=r"data\.cache_states: 10 training clips are longer than data\.max_seconds"):
        CachedStates(clips, [encoder(1)], [[1]], 4, 1000)
    with pytest.raises(ValueError, match="cache_states has no effect with distortion=both"):
        SpeechData(cache_states=True, distortion="both")
