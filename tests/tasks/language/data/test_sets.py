from __future__ import annotations

import json

import numpy as np
import pytest

from coterie.data import stdlib
from coterie.errors import CoterieError
from coterie.tasks.language.data.sets import corpus_texts, load_sets
from coterie.tasks.language.settings import LanguageData
from coterie.tasks.language.tokenizer import train_tokenizer


def write_jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_texts_are_packed_and_what_is_left_out_is_said(tokenizer, tmp_path, texts):
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").touch()
    sets = load_sets(LanguageData(name=str(tmp_path), block_length=16), tokenizer)
    assert (sets.packing, sets.loss_on, sets.kind) == ("packed", "all", "text")
    assert (sets.skipped, sets.passed_over) == (2, 1)
    assert sets.notes[:3] == (
        "1 document is not UTF-8 and left out",
        "1 document is empty and left out",
        "1 file of no format that is read, or besides texts, passed over",
    )
    assert set(sets.rows) == {"train", "validation", "test"}
    assert sum(each["documents"] for each in sets.fingerprint["splits"].values()) == len(texts)
    json.dumps(sets.fingerprint)
    again = load_sets(LanguageData(name=str(tmp_path), block_length=16), tokenizer)
    assert (again.fingerprint, again.notes) == (sets.fingerprint, sets.notes)  # also when nothing is read anew


def test_prompts_are_rows_of_their_own_and_only_completions_are_learnt(tokenizer, tmp_path):
    rows = [{"prompt": f"number {n}:", "completion": " the cat" * (1 + 9 * (n % 2))} for n in range(20)]
    name = write_jsonl(tmp_path / "a.jsonl", rows)
    sets = load_sets(LanguageData(name=name, test=0, validation=0, block_length=16), tokenizer)
    assert (sets.packing, sets.loss_on) == ("documents", "completion")
    (note,) = sets.notes
    assert note.startswith("10 train documents longer than data.block_length=16 cut off there, ")
    whole = load_sets(LanguageData(name=name, test=0, validation=0, loss_on="all"), tokenizer)
    assert whole.rows["train"].predicted > sets.rows["train"].predicted
    with pytest.raises(
        CoterieError, match=r"no row of the train split has a token to learn within data.block_length=2"
    ):
        load_sets(LanguageData(name=name, test=0, validation=0, block_length=2), tokenizer)


def test_texts_have_no_completions(tokenizer, tmp_path):
    name = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(CoterieError, match=r"data.loss_on=completion: data=.* holds texts"):
        load_sets(LanguageData(name=name, loss_on="completion"), tokenizer)


def test_the_embedded_set_is_split_by_module(tmp_path, monkeypatch):
    for number in range(10):
        text = "\n".join(f'def f{n}():\n    """Function {n} of the module number {number}."""' for n in range(6))
        (tmp_path / f"module{number}.py").write_text(text)
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    tokenizer = train_tokenizer(corpus_texts(LanguageData()), 300)
    sets = load_sets(LanguageData(block_length=16), tokenizer)
    assert sets.name.startswith("stdlib of Python 3.")
    modules = {}
    for split, rows in sets.rows.items():
        tokens = rows.read(np.arange(len(rows)))[0]
        text = tokenizer.decode(tokens.reshape(-1))
        modules[split] = {number for number in range(10) if f"number {number}." in text}
    assert [len(modules[split]) for split in ("train", "validation", "test")] == [7, 1, 2]
    assert not modules["train"] & (modules["validation"] | modules["test"])
    assert sets.notes[0].startswith("10 source files; other versions")


def test_a_setting_that_names_no_column_is_refused_and_said_of_an_evaluation(tokenizer, tmp_path, texts):
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text)
    settings = LanguageData(name=str(tmp_path), text="body", block_length=16)
    message = f"data.text=body has no effect: data={tmp_path.name} are texts, not rows with columns"
    for refused in (lambda: load_sets(settings, tokenizer), lambda: next(corpus_texts(settings))):
        with pytest.raises(CoterieError, match=f"{message}; leave it out"):
            refused()
    assert message in load_sets(settings, tokenizer, inherited=True).notes
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"text": text, "prompt": text} for text in texts])
    with pytest.raises(CoterieError, match=r"data.messages=chat has no effect: data=rows are texts; leave it out"):
        load_sets(LanguageData(name=str(rows), messages="chat"), tokenizer)
