"""Tokenizers: loaded from a folder or the Hub, trained on documents, and compared by behaviour. Code in a folder is never run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.files import usual_mode

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257  # every byte, and the end-of-text token
SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id")  # the padding token does not matter, since it is masked
# Parts of a fast tokenizer that determine the token ids of a text, with their display names.
PARTS = {
    "model": "merges or models",
    "normalizer": "normalizers",
    "pre_tokenizer": "pre-tokenizers",
    "post_processor": "tokens added around a text",
    "added_tokens": "added tokens",
}


def load_tokenizer(name: str | Path) -> Any:
    """Load a tokenizer from a folder or the Hub.

    Args:
        name: a folder with a tokenizer's files, such as a network's; or ``user/network``.

    Returns:
        A tokenizer of transformers.

    Raises:
        CoterieError: transformers is missing, there is no such folder or tokenizer, or it has no end-of-text token.
    """
    try:
        import transformers
    except ImportError:
        raise CoterieError("language models need the package transformers: pip install 'coterie[text]'") from None
    place = Path(name).expanduser()
    if not place.is_dir() and (isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise CoterieError(
            f"there is no folder {str(name)!r}; expected one with a tokenizer's files, or a name of the Hub"
        )
    try:
        # transformers takes a name for a folder if such a folder exists, also in the working folder.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(place) if place.is_dir() else str(name), trust_remote_code=False
        )
    except Exception as error:  # files, network, formats: the library raises many kinds
        reason = " ".join(str(error).split())[:160]
        if place.is_dir() and not any(any(place.glob(each)) for each in ("*token*", "vocab*", "merges*", "*.model")):
            reason = "none of its files is there; save the tokenizer into it by save_pretrained"
        raise CoterieError(f"{str(name)!r} has no tokenizer that can be read: {reason}") from None
    if tokenizer.eos_token_id is None:
        raise CoterieError(
            f"the tokenizer of {str(name)!r} has no end-of-text token; set its eos_token and save it again"
        )
    return tokenizer


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer. Training is deterministic; every text can be encoded, and decoding restores it.

    Args:
        documents: texts to learn merges from, read once.
        vocabulary: largest number of tokens; few documents give fewer.

    Returns:
        A ``PreTrainedTokenizerFast`` of transformers with the end-of-text token ``<|endoftext|>`` (id 0), which is also the padding token.

    Raises:
        CoterieError: a vocabulary below 257.
    """
    if vocabulary < SMALLEST:
        raise CoterieError(
            f"a vocabulary of {vocabulary} tokens: expected at least {SMALLEST}, the bytes and the end of a text"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files to a folder, replacing its contents in one move."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.save_pretrained(temporary)
    mode = usual_mode(folder.parent)
    for path in temporary.iterdir():
        path.chmod(mode)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def num_tokens(tokenizer: Any) -> int:
    """Return the number of rows that an embedding needs: the largest token id plus one."""
    return 1 + max(tokenizer.get_vocab().values())


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest that is equal for tokenizers that produce the same token ids for the same texts, whatever their location."""
    described = [_described(tokenizer), _special(tokenizer)]
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()


def tokenizer_difference(first: Any, second: Any) -> str | None:
    """Return in a few words why two tokenizers do not produce the same token ids for the same texts; None: they do."""
    vocabularies: list[dict[str, int]] = [first.get_vocab(), second.get_vocab()]
    if len(vocabularies[0]) != len(vocabularies[1]):
        return f"vocabularies of {len(vocabularies[0]):,} and {len(vocabularies[1]):,} tokens"
    for token, number in sorted(vocabularies[0].items(), key=lambda item: item[1]):
        if vocabularies[1].get(token) != number:
            other = vocabularies[1].get(token, "missing")
            return f"vocabularies: {token!r} is {number} in one and {other} in the other"
    special = _special(first), _special(second)
    for name in SPECIAL:
        if special[0][name] != special[1][name]:
            return f"{name} {special[0][name]} and {special[1][name]}"
    described = _described(first), _described(second)
    for part, called in PARTS.items():
        if described[0].get(part) != described[1].get(part):
            return f"different {called}"
    return None if described[0] == described[1] else "different kinds of tokenizers"


def _special(tokenizer: Any) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name, None) for name in SPECIAL}


def _described(tokenizer: Any) -> dict[str, Any]:
    """Describe a tokenizer's behaviour as JSON values. Without a fast backend: its class and vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"model": [type(tokenizer).__name__, tokenizer.get_vocab()]}
    whole = json.loads(backend.to_str())
    return {part: whole.get(part) for part in PARTS}
