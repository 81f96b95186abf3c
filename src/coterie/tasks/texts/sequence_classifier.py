"""Sequence classifiers of transformers as students and teachers: building, loading, and separating the last layer.

This module does not depend on texts or recipes. The package transformers is imported when a network is needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.networks.group import StudentGroup
from coterie.networks.hugging_face import FOREIGN, quiet_transformers, require_place, short_reason
from coterie.networks.tracing import quiet_eval


def read_tokenizer(name: str | Path) -> Any:
    """Loads the tokenizer of a network's folder or of a name of the Hub; a path object is the folder of a tokenizer alone.

    Raises:
        CoterieError: there is no tokenizer.
    """
    place = require_place(name) if isinstance(name, str) else str(name)
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as error:
            raise CoterieError(f"{str(name)!r} has no tokenizer that can be read: {short_reason(error)}") from None


def tokenizer_key(tokenizer: Any) -> str:
    """Returns a text that is equal for equivalent tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described: Any = [type(tokenizer).__name__, tokenizer.get_vocab()]
    else:  # truncation and padding are arguments of every call
        described = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
    return json.dumps([described, tokenizer.pad_token_id], sort_keys=True)


def with_classes(config: Any, class_names: Sequence[str]) -> Any:
    """Returns a copy of a configuration for these classes."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: number for number, name in enumerate(class_names)}
    config.problem_type = None
    return config


def with_padding(config: Any, tokenizer: Any) -> Any:
    """Returns a copy of a configuration with the tokenizer's padding token if it has none (as GPT-2, which could not take batches)."""
    config = copy.deepcopy(config)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config


def build_classifier(config: dict[str, Any] | Any) -> nn.Module:
    """Builds a network with initial weights from torch's generator.

    Args:
        config: a configuration of transformers, or its description by :func:`~coterie.networks.hugging_face.describe_config`.

    Raises:
        CoterieError: the architecture is unknown, or has no sequence classifier.
    """
    with quiet_transformers() as transformers:
        try:
            if isinstance(config, dict):
                # Drop entries that point to code or to other locations.
                config = transformers.AutoConfig.for_model(**{k: v for k, v in config.items() if k not in FOREIGN})
            network: nn.Module = transformers.AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
        except Exception as error:
            raise CoterieError(f"the configuration gives no sequence classifier: {short_reason(error)}") from None
    return network


def load_classifier(name: str, config: Any, *, whole: bool) -> nn.Module:
    """Loads a network with the weights of a folder or of the Hub, in float32.

    Args:
        name: the folder, or the name on the Hub.
        config: configuration with the classes of the data; a classifier that the weights lack is initialised.
        whole: whether the classifier must be among the weights, as for a teacher.

    Raises:
        CoterieError: there are no weights, or (with ``whole``) weights are missing or have another shape.
    """
    place = require_place(name)
    with quiet_transformers() as transformers:
        try:
            network, found = transformers.AutoModelForSequenceClassification.from_pretrained(
                place,
                config=config,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise CoterieError(f"the weights of {name!r} cannot be loaded: {short_reason(error)}") from None
    missing = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if whole and missing:
        raise CoterieError(
            f"{name!r} is no trained sequence classifier of these classes: {missing[0]} does not fit or is not there"
        )
    classifier: nn.Module = network
    return classifier


def save_folder(network: nn.Module, tokenizer: Path, folder: Path) -> nn.Module:
    """Write a network and its tokenizer in the format of ``from_pretrained``, and return the network loaded from there.

    Args:
        network: a network of transformers.
        tokenizer: the folder of its tokenizer.
        folder: destination of config.json, model.safetensors and the tokenizer's files.
    """
    with quiet_transformers() as transformers:
        network.save_pretrained(folder)  # type: ignore[operator]
        transformers.AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False).save_pretrained(folder)
        loaded: nn.Module = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False
        )
    return loaded.eval()


class SequenceClassifier(nn.Module):
    """A sequence classifier of transformers whose last layer is separated, so that its input, the embedding, is accessible.

    The last linear layer of the network is replaced by an identity. The network then returns the embedding as logits (BERT's pooled
    first token, GPT's last token, or the output of another head), and the layer is applied to that. This works for any
    architecture and needs no hooks.

    Args:
        network: a network of transformers.
        example: a batch as in :mod:`coterie.tasks.texts.tokens`, with the maximum number of tokens.
        slot: index of the batch's mapping that it reads; a batch that is one mapping, as another library makes it, is read as it is.

    Raises:
        CoterieError: the network does not take that many tokens, its last layer is not its classifier, or it returns no hidden states.
    """

    def __init__(self, network: nn.Module, example: Inputs, slot: int = 0) -> None:
        super().__init__()
        config: Any = network.config
        self.slot = slot
        self.takes_segments = (getattr(config, "type_vocab_size", None) or 0) > 1
        self.network = network
        self.classifier_name = self.classifier_of(network)
        if getattr(config, "pad_token_id", None) == 0:  # an example of padding tokens would have no valid positions
            example = tuple({**each, "input_ids": torch.ones_like(each["input_ids"])} for each in example)
        length = example[slot]["input_ids"].shape[1]
        with quiet_eval(network):
            try:
                expected = self._run(example).logits
            except (IndexError, RuntimeError, ValueError) as error:
                raise CoterieError(
                    f"{type(network).__name__} does not take {length} tokens: {short_reason(error)}; lower data.max_length"
                ) from None
        self.classifier = network.get_submodule(self.classifier_name)
        network.set_submodule(self.classifier_name, nn.Identity())
        with quiet_eval(self):
            logits, _, feature_map = self(example)
        if not torch.allclose(logits, expected, atol=1e-5) or feature_map.ndim != 3:
            raise CoterieError(f"{type(network).__name__} does not end with a linear classifier, which students need")

    @staticmethod
    def classifier_of(network: nn.Module) -> str:
        """Returns the path of the last linear layer."""
        return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]

    def _run(self, inputs: Inputs) -> Any:
        table = inputs if isinstance(inputs, Mapping) else inputs[self.slot]
        if not self.takes_segments:
            table = {name: table[name] for name in ("input_ids", "attention_mask")}
        return self.network(**table, output_hidden_states=True, return_dict=True)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [B, K], embedding [B, d] and last hidden states [B, L, E] of a batch of texts."""
        output = self._run(inputs)
        if getattr(output, "hidden_states", None) is None:
            raise CoterieError(f"{type(self.network).__name__} shows no hidden states, which students need")
        embedding: Tensor = output.logits
        return self.classifier(embedding), embedding, output.hidden_states[-1]

    def plain(self) -> nn.Module:
        """Returns a copy of the original network of transformers, with the classifier in its place."""
        network = copy.deepcopy(self.network)
        network.set_submodule(self.classifier_name, copy.deepcopy(self.classifier))
        return network


class SequenceGroup(StudentGroup):
    """Sequence classifiers as peers; a student is a plain network of transformers."""

    def student(self, number: int) -> nn.Module:
        assembled = super().student(number)
        branch = assembled.branch
        assert isinstance(branch, SequenceClassifier)
        return branch.plain()


def example_inputs(slots: int, length: int = 4) -> tuple[dict[str, Tensor], ...]:
    """Returns a batch of two texts of token 0, for each tokenizer: an input that any network accepts, for measuring shapes."""
    blank = torch.zeros(2, length, dtype=torch.int64)
    batch = {"input_ids": blank, "attention_mask": torch.ones_like(blank), "token_type_ids": blank}
    return tuple(dict(batch) for _ in range(slots))
