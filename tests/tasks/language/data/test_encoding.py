from __future__ import annotations

import pytest

from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Document
from coterie.tasks.language.data.encoding import Encoder

CHAT = [
    {"role": "user", "content": "the cat?"},
    {"role": "assistant", "content": "on the mat"},
    {"role": "user", "content": "the dog?"},
    {"role": "assistant", "content": "in the park"},
]


def encode(tokenizer, kind, *contents):
    return Encoder(tokenizer, kind).encode([Document(f"row {n}", content) for n, content in enumerate(contents, 1)])


def learnt(tokenizer, encoded):
    return [tokenizer.decode(encoded.tokens[a:b]) for a, b in encoded.spans]


def test_texts_end_with_the_end_of_text_token_once(tokenizer):
    end = tokenizer.eos_token_id
    first, second = encode(tokenizer, "text", "the cat", "the cat<|endoftext|>")
    assert first.tokens == [*tokenizer("the cat")["input_ids"], end] == second.tokens
    assert first.spans == []


def test_a_beginning_token_of_the_tokenizers_own_is_kept_and_never_learnt_as_a_completion(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert encode(tokenizer, "text", "the cat")[0].tokens == [
        0,
        *tokenizer("the cat", add_special_tokens=False)["input_ids"],
        0,
    ]
    (encoded,) = encode(tokenizer, "completion", ("", "the cat"))
    assert encoded.spans == [(1, len(encoded.tokens))]


@pytest.mark.parametrize(
    "pair", [("the cat", " sat on"), ("日", "本 mat"), ("the c", "at sat"), ("", "the"), ("the cat ", "sat")]
)
def test_a_completion_is_every_token_that_holds_a_part_of_it(tokenizer, pair):
    prompt, completion = pair
    (encoded,) = encode(tokenizer, "completion", pair)
    ((start, end),) = encoded.spans
    assert end == len(encoded.tokens)
    assert tokenizer.decode(encoded.tokens[:-1]) == prompt + completion
    assert encoded.tokens[-1] == tokenizer.eos_token_id
    assert prompt.startswith(tokenizer.decode(encoded.tokens[:start]))
    assert tokenizer.decode(encoded.tokens[start:-1]).endswith(completion)


def test_the_assistants_turns_are_found_with_and_without_marks(tokenizer, templates):
    tokenizer.chat_template = templates[1]
    (marked,) = encode(tokenizer, "chat", CHAT)
    tokenizer.chat_template = templates[0]
    (plain,) = encode(tokenizer, "chat", CHAT)
    assert marked.tokens == plain.tokens
    assert learnt(tokenizer, marked) == ["on the mat</s>", "in the park</s>", "<|endoftext|>"]
    # A turn is what it adds, line end included, and the end of the text follows the last one.
    assert learnt(tokenizer, plain) == ["on the mat</s>\n", "in the park</s>\n", "<|endoftext|>"]
    assert tokenizer.decode(plain.tokens).startswith("<user>the cat?</s>\n<assistant>on the mat</s>\n")


def test_a_chat_that_ends_with_a_question_does_not_learn_its_end(tokenizer, templates):
    tokenizer.chat_template = templates[0]
    (encoded,) = encode(tokenizer, "chat", CHAT[:3])
    assert encoded.tokens[-1] == tokenizer.eos_token_id
    assert learnt(tokenizer, encoded) == ["on the mat</s>\n"]


def test_a_template_that_writes_the_end_itself_gets_no_second_one(tokenizer, templates):
    tokenizer.chat_template = templates[0].replace("</s>", "<|endoftext|>")
    (encoded,) = encode(tokenizer, "chat", CHAT)
    assert encoded.tokens.count(tokenizer.eos_token_id) == 4
    assert learnt(tokenizer, encoded)[1] == "in the park<|endoftext|>\n"


def test_chats_that_cannot_be_marked_are_refused_in_a_line(tokenizer, templates):
    with pytest.raises(CoterieError, match=r"the tokenizer has no chat template"):
        encode(tokenizer, "chat", CHAT)
    tokenizer.chat_template = templates[0]
    with pytest.raises(CoterieError, match=r"row 1: the chat begins with the assistant"):
        encode(tokenizer, "chat", CHAT[1:])
    tokenizer.chat_template = templates[0] + "{{ messages|length }}"
    with pytest.raises(CoterieError, match=r"row 1: the chat template writes message 2 differently"):
        encode(tokenizer, "chat", CHAT)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        CoterieError, match=r"row 1: the tokenizer's chat template refuses the chat: .*roles must alternate"
    ):
        encode(tokenizer, "chat", CHAT)


def test_what_encoding_needs_of_a_tokenizer(tokenizer):
    class Slow:
        is_fast = False
        eos_token_id = 0
        chat_template = None

    with pytest.raises(CoterieError, match=r"prompts and chats need a fast tokenizer, and Slow gives no offsets"):
        Encoder(Slow(), "completion")
    tokenizer.eos_token = None
    with pytest.raises(CoterieError, match=r"no end-of-text token"):
        Encoder(tokenizer, "text")
