from __future__ import annotations

import pytest

from coterie.errors import CoterieError
from coterie.tasks.language.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    num_tokens,
    tokenizer_difference,
    tokenizer_digest,
    train_tokenizer,
)


def test_training_is_deterministic_and_every_text_comes_back(trained, texts):
    again = train_tokenizer(iter(texts), 300)
    assert num_tokens(trained) == 300
    assert trained.eos_token == END_OF_TEXT
    assert tokenizer_digest(again) == tokenizer_digest(trained)
    assert tokenizer_difference(again, trained) is None
    for text in [*texts[:3], "  zwölf Boxkämpfer\t日本\n\n", ""]:
        assert trained.decode(trained(text)["input_ids"]) == text
    assert len(trained(texts[0])["input_ids"]) < len(texts[0]) / 2  # merges were learnt


def test_a_saved_tokenizer_is_the_same(trained, tmp_path, texts):
    trained.save_pretrained(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert tokenizer_difference(loaded, trained) is None
    assert tokenizer_digest(loaded) == tokenizer_digest(trained)
    trained(texts[:2], padding=True, truncation=True, max_length=4)  # how it was called last makes no difference
    assert tokenizer_digest(loaded) == tokenizer_digest(trained)


def test_differences_are_named(trained, tokenizer, texts):
    smaller = train_tokenizer(texts, 290)
    assert tokenizer_difference(trained, smaller) == "vocabularies of 300 and 290 tokens"
    other = train_tokenizer([text.upper() for text in texts], 300)
    assert tokenizer_difference(trained, other).startswith("vocabularies: ")
    tokenizer.bos_token = "a"
    assert tokenizer_difference(trained, tokenizer) == f"bos_token_id None and {tokenizer.bos_token_id}"
    tokenizer.bos_token = None
    assert tokenizer_difference(trained, tokenizer) is None
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert tokenizer_difference(trained, tokenizer) == "different normalizers"
    assert tokenizer_digest(trained) != tokenizer_digest(tokenizer)


def test_what_cannot_be_loaded_is_said(tmp_path, trained):
    with pytest.raises(CoterieError, match="there is no folder '/nowhere'"):
        load_tokenizer("/nowhere")
    with pytest.raises(CoterieError, match="has no tokenizer that can be read"):
        load_tokenizer(tmp_path)
    with pytest.raises(CoterieError, match="expected at least 257"):
        train_tokenizer(["a"], 256)
    import copy

    endless = copy.deepcopy(trained)
    endless.eos_token = None
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(CoterieError, match="has no end-of-text token"):
        load_tokenizer(tmp_path / "endless")
