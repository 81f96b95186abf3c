from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from coterie.data.cache import cache_folder
from coterie.errors import CoterieError, RunError
from coterie.tasks.language.data import tokens as module
from coterie.tasks.language.data.documents import Document, Source
from coterie.tasks.language.data.tokens import tokenise


def source(*contents, key="key", groups=None, reads=None):
    def read(tally):
        if reads is not None:
            reads.append(key)
        for number, content in enumerate(contents):
            yield Document(f"row {number}", content, groups[number] if groups else None)

    return Source(key, read)


def documents(store):
    return [store.tokens[a:b].tolist() for a, b in zip(store.offsets, store.offsets[1:], strict=False)]


def same(first, second):
    tables = ("tokens", "offsets", "digests", "groups")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in tables)


def test_documents_are_stored_with_their_ends_in_order_and_found_again(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 7)
    reads = []
    store = tokenise(source(*texts, reads=reads), "text", tokenizer)
    assert store.tokens.dtype == np.uint16
    assert isinstance(store.tokens, np.memmap)
    assert documents(store) == [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    assert store.spans is None
    again = tokenise(source(*texts, reads=reads), "text", tokenizer)
    assert same(store, again)
    assert reads == ["key"]
    assert not again.rebuilt


def test_a_larger_vocabulary_takes_four_bytes_a_token(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "num_tokens", lambda tokenizer: 2**16 + 1)
    assert tokenise(source("the cat"), "text", tokenizer).tokens.dtype == np.uint32
    monkeypatch.setattr(module, "num_tokens", lambda tokenizer: 2**16)
    assert tokenise(source("the cat", key="other"), "text", tokenizer).tokens.dtype == np.uint16


def test_spans_are_places_among_all_tokens(tokenizer):
    pairs = [("the cat", " sat"), ("a dog", " ran in the park"), ("it", " rains")]
    store = tokenise(source(*pairs), "completion", tokenizer)
    learnt = [tokenizer.decode(store.tokens[a:b]) for a, b in store.spans]
    assert learnt == [f"{completion}<|endoftext|>" for _, completion in pairs]


def test_what_is_left_out_is_counted_and_equal_documents_are_known(tokenizer):
    store = tokenise(source("a", "  \n", "\udcff", "b", "a", groups=["x", "x", "x", "x", "y"]), "text", tokenizer)
    assert len(store) == 3
    assert (store.tally.empty, store.tally.unreadable) == (1, 1)
    assert store.digests[0] == store.digests[2] != store.digests[1]
    assert store.groups[0] == store.groups[1] != store.groups[2]
    assert tokenise(source("a", key="alone"), "text", tokenizer).groups[0] == store.digests[0]
    with pytest.raises(CoterieError, match=r"no document that can be read: 1 empty, 1 not UTF-8"):
        tokenise(source("", "\udcff", key="nothing"), "text", tokenizer)


def test_stores_depend_on_documents_tokenizer_kind_and_for_chats_the_template(tokenizer, trained, templates):
    def stores():
        return {path.name for path in (cache_folder() / "tokens").iterdir() if path.is_dir()}

    tokenise(source("a"), "text", tokenizer)
    tokenizer.chat_template = templates[0]
    tokenise(source("a"), "text", tokenizer)  # a text has no use for a template
    assert len(stores()) == 1
    tokenise(source("a", key="other"), "text", tokenizer)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tokenise(source(chat), "chat", tokenizer)
    tokenizer.chat_template = templates[1]
    tokenise(source(chat), "chat", tokenizer)
    tokenizer.add_tokens(["zebra"])
    tokenise(source("a"), "text", tokenizer)
    assert len(stores()) == 5


@pytest.mark.parametrize("damage", ["cut", "header", "gone", "offsets", "long"])
def test_a_damaged_store_is_made_again_and_said(tokenizer, texts, damage):
    store = tokenise(source(*texts), "text", tokenizer)
    whole = [each.copy() for each in (store.tokens, store.offsets)]
    (folder,) = [path for path in (cache_folder() / "tokens").iterdir() if path.is_dir()]
    del store
    if damage == "cut":
        os.truncate(folder / "tokens.bin", 10)
    elif damage == "long":
        with (folder / "tokens.bin").open("ab") as file:
            file.write(b"xx")
    elif damage == "header":
        (folder / "store.json").write_text('{"tokens": ')
    elif damage == "gone":
        (folder / "digests.bin").unlink()
    else:
        size = (folder / "offsets.bin").stat().st_size
        (folder / "offsets.bin").write_bytes(bytes(size))
    again = tokenise(source(*texts), "text", tokenizer)
    assert again.rebuilt
    assert np.array_equal(again.tokens, whole[0])
    assert np.array_equal(again.offsets, whole[1])
    assert not tokenise(source(*texts), "text", tokenizer).rebuilt


def test_nothing_is_left_of_a_store_whose_making_failed(tokenizer):
    def read(tally):
        yield Document("row 1", "a")
        raise CoterieError("row 2 is bad")

    with pytest.raises(CoterieError, match=r"row 2 is bad"):
        tokenise(Source("key", read), "text", tokenizer)
    assert not [path for path in (cache_folder() / "tokens").iterdir() if path.is_dir()]


def test_a_cache_folder_that_cannot_be_written_is_named(tokenizer, cache):
    (cache / "tokens").write_text("a file stands here")
    with pytest.raises(RunError, match=r"cannot write tokens to .*COTERIE_CACHE names another folder"):
        tokenise(source("a"), "text", tokenizer)


def test_starts_at_the_same_time_read_the_documents_once(tokenizer, texts):
    reads, stores = [], []

    def start():
        stores.append(tokenise(source(*texts, reads=reads), "text", tokenizer))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert reads == ["key"]
    assert len(stores) == 3


MEASURE = """
import json, resource, sys
from coterie.tasks.language.data.documents import Document, Source
from coterie.tasks.language.tokenizer import load_tokenizer
from coterie.tasks.language.data.tokens import tokenise

def read(tally):
    for number in range(int(sys.argv[2])):
        yield Document("", f"document {number} " + "zqxj" * 250)

tokenizer = load_tokenizer(sys.argv[1])
tokenise(Source("warm-up", lambda tally: iter([Document("", f"{n} " + "zqxj" * 250) for n in range(100)])), "text", tokenizer)
store = tokenise(Source("measured", read), "text", tokenizer)
print(json.dumps([len(store.tokens), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_documents(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    found = []
    for count in (100, 10_000):
        environment = {**os.environ, "COTERIE_CACHE": str(tmp_path / str(count)), "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "t"), str(count)]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        found.append(json.loads(out.splitlines()[-1]))
    (few, base), (many, peak) = found
    assert few > 1e5
    assert many > 1e7
    assert peak - base < 60_000  # KiB; the tokens as Python numbers would be 400,000
