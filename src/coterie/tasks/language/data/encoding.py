"""Encodes documents as token ids, and marks which are learnt if only completions are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Document, Kind

Span = tuple[int, int]  # start, and end (exclusive)
MARKS_TURNS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # marks the assistant's turns in a chat template


class Encoded(NamedTuple):
    """Attributes:
    tokens: token ids, ending with the end-of-text token.
    spans: spans of tokens that are a completion or an assistant's turn; empty for texts.
    """

    tokens: list[int]
    spans: list[Span]


class Encoder:
    """Tokenises documents of one kind.

    - A text is tokenised with the beginning-of-text token if the tokenizer adds one, and with the end-of-text token.
    - A prompt and its completion are tokenised as one text. The completion is every token that contains a part of it, and the end-of-text token.
    - A chat is formatted by the tokenizer's chat template. The assistant's turns are where the template marks them
      (``{% generation %}``), or else the text that a turn adds to the chat before it with its generation prompt, end mark included. The
      end-of-text token follows unless the template writes it.

    Args:
        tokenizer: a tokenizer of transformers.
        kind: kind of the documents.

    Raises:
        CoterieError: the tokenizer has no end-of-text token, no chat template for chats, or no offsets for completions (only fast tokenizers have them).
    """

    def __init__(self, tokenizer: Any, kind: Kind) -> None:
        self.tokenizer = tokenizer
        self.kind = kind
        if tokenizer.eos_token_id is None:
            raise CoterieError("the tokenizer has no end-of-text token; set its eos_token")
        self.end: int = tokenizer.eos_token_id
        if kind != "text" and not tokenizer.is_fast:
            raise CoterieError(
                f"prompts and chats need a fast tokenizer, and {type(tokenizer).__name__} gives no offsets; save it as tokenizer.json"
            )
        if kind == "chat" and not tokenizer.chat_template:
            raise CoterieError(
                "the data are chats, and the tokenizer has no chat template; take an instruction-tuned network's, or set chat_template"
            )
        self.marked = kind == "chat" and bool(MARKS_TURNS.search(str(tokenizer.chat_template)))

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Return the tokens of each document.

        Raises:
            CoterieError: the template refuses a chat, or the turns of a chat cannot be located in its output.
        """
        if self.kind == "text":
            found = self._tokenize([str(document.content) for document in documents], special=True)
            return [Encoded(self._ended(tokens), []) for tokens in found["input_ids"]]
        if self.kind == "completion":
            return self._completions([document.content for document in documents])
        if self.marked:
            return [self._marked_chat(document) for document in documents]
        return self._chats(documents)

    def _tokenize(self, texts: list[str], special: bool, offsets: bool = False) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            padding=False,
            truncation=False,
            verbose=False,  # rows are cut later, so a text longer than the network's positions is no error
        )

    def _ended(self, tokens: list[int]) -> list[int]:
        return tokens if tokens and tokens[-1] == self.end else [*tokens, self.end]

    def _completions(self, pairs: Iterable[Any]) -> list[Encoded]:
        pairs = list(pairs)
        found = self._tokenize([prompt + completion for prompt, completion in pairs], special=True, offsets=True)
        encoded = []
        for (prompt, _), numbers, offsets in zip(pairs, found["input_ids"], found["offset_mapping"], strict=True):
            first = next((place for place, (_, end) in enumerate(offsets) if end > len(prompt)), len(numbers))
            tokens = self._ended(numbers)
            encoded.append(Encoded(tokens, [(first, len(tokens))]))
        return encoded

    def _chats(self, documents: Sequence[Document]) -> list[Encoded]:
        written = [self._write(document, document.content) for document in documents]
        found = self._tokenize(written, special=False, offsets=True)
        encoded = []
        for document, text, numbers, offsets in zip(
            documents, written, found["input_ids"], found["offset_mapping"], strict=True
        ):
            turns = self._turns(document, text)
            spans = [
                (inside[0], inside[-1] + 1)
                for start, end in turns
                if (inside := [n for n, (a, b) in enumerate(offsets) if b > start and a < end and b > a])
            ]
            encoded.append(self._chat(document, numbers, spans))
        return encoded

    def _chat(self, document: Document, numbers: list[int], spans: list[Span]) -> Encoded:
        """Encode a chat with its end-of-text token, which belongs to the assistant's turn if that is the last one."""
        if self.end in numbers:
            return Encoded(numbers, spans)
        last = document.content[-1]
        if spans and isinstance(last, dict) and last["role"] == "assistant":
            spans = [*spans, (len(numbers), len(numbers) + 1)]
        return Encoded([*numbers, self.end], spans)

    def _turns(self, document: Document, text: str) -> list[Span]:
        """Return the character spans of the assistant's turns in the formatted chat."""
        turns = []
        messages: Any = document.content
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if number == 0:
                raise CoterieError(
                    f"{document.where}: the chat begins with the assistant, and the chat template does not mark its turns;\n"
                    "take a template with {% generation %}, or leave the chat out"
                )
            before = self._write(document, messages[:number], add_generation_prompt=True)
            after = self._write(document, messages[: number + 1])
            if not (text.startswith(after) and after.startswith(before)):
                raise CoterieError(
                    f"{document.where}: the chat template writes message {number + 1} differently within its chat, and does not mark the assistant's turns;\n"
                    "take a template with {% generation %}, or cut the chats into prompts and completions"
                )
            turns.append((len(before), len(after)))
        return turns

    def _write(self, document: Document, messages: Any, **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # templates may raise anything
            raise self._refused(document, error) from None

    def _marked_chat(self, document: Document) -> Encoded:
        try:
            found = self.tokenizer.apply_chat_template(
                document.content, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
        except Exception as error:
            raise self._refused(document, error) from None
        mask = [0, *found["assistant_masks"], 0]
        edges = [place - 1 for place in range(1, len(mask)) if mask[place] != mask[place - 1]]
        return self._chat(document, list(found["input_ids"]), list(zip(edges[::2], edges[1::2], strict=True)))

    @staticmethod
    def _refused(document: Document, error: Exception) -> CoterieError:
        reason = " ".join(str(error).split())[:160]
        return CoterieError(f"{document.where}: the tokenizer's chat template refuses the chat: {reason}")
