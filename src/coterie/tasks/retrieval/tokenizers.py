"""Tokenizers of encoders: trains them on the data's texts, saves and loads them, and provides a placeholder without words."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.files import usual_mode

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a lower-casing WordPiece tokenizer like BERT's. Training is deterministic.

    Args:
        texts: texts to train on, read once.
        vocabulary: largest number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **SPECIAL)


def placeholder_tokenizer() -> Any:
    """Build a tokenizer without words, for an encoder that only gets tokens."""
    return train_tokenizer([], len(SPECIAL))


def load_tokenizer(folder: str | Path) -> Any:
    """Load a tokenizer from a folder or the Hub.

    Raises:
        CoterieError: there is none.
    """
    import transformers

    path = Path(folder).expanduser()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(path) if path.is_dir() else str(folder), trust_remote_code=False
        )
    except Exception as error:  # files, network, formats: the library raises many kinds
        reason = " ".join(str(error).split())[:160]
        raise CoterieError(f"{str(folder)!r} has no tokenizer that can be read: {reason}") from None


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
