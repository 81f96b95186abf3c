from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from coterie.errors import CoterieError
from coterie.networks.hugging_face import describe_config
from coterie.tasks.texts.sequence_classifier import (
    SequenceClassifier,
    SequenceGroup,
    build_classifier,
    example_inputs,
    with_classes,
)

WIDTH = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "embedding_size": 8,
}
KINDS = {
    "bert": WIDTH,
    "roberta": {**WIDTH, "type_vocab_size": 1},
    "electra": WIDTH,
    "albert": WIDTH,
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0},
}


def config_of(kind, classes=("no", "yes", "perhaps")):
    return with_classes(AutoConfig.for_model(kind, vocab_size=20, **KINDS[kind]), classes)


def inputs(slots=1):
    torch.manual_seed(1)
    example = example_inputs(slots, 6)
    tokens = torch.randint(2, 20, (2, slots, 6))
    for slot, table in enumerate(example):
        table["input_ids"] = tokens[:, slot].clone()
        table["token_type_ids"] = torch.tensor([0, 0, 0, 1, 1, 1]).repeat(2, 1)
        table["attention_mask"] = torch.ones_like(table["input_ids"])
        table["input_ids"][0, 4:], table["attention_mask"][0, 4:] = 0, 0  # padded
    return example


@pytest.mark.parametrize("kind", list(KINDS))
def test_parts_are_the_networks_own(kind):
    """Logits, and the classifier applied to the embedding, against the untouched network."""
    torch.manual_seed(0)
    network = build_classifier(config_of(kind)).eval()
    plain = copy.deepcopy(network)
    batch = inputs(slots=2)
    student = SequenceClassifier(network, batch, slot=1).eval()
    logits, embedding, feature_map = student(batch)
    tokens, mask, segments = batch[1].values()
    segments = {"token_type_ids": segments} if kind in {"bert", "electra", "albert"} else {}
    expected = plain(input_ids=tokens, attention_mask=mask, **segments, output_hidden_states=True)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(student.classifier(embedding), expected.logits)
    torch.testing.assert_close(feature_map, expected.hidden_states[-1])
    assert feature_map.shape == (2, 6, 16)
    again = student.plain()
    assert type(again) is type(plain)
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(again.state_dict()[key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_described_configuration_builds_the_same_network(kind):
    config = config_of(kind)
    described = describe_config(config)
    torch.manual_seed(0)
    first = build_classifier(config)
    torch.manual_seed(0)
    second = build_classifier(described)
    assert second.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    assert describe_config(second.config)["label2id"] == {"no": 0, "yes": 1, "perhaps": 2}
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_group_gives_plain_students_that_share_nothing_with_it():
    example = inputs()
    group = SequenceGroup(
        None, [SequenceClassifier(build_classifier(config_of("bert")), example) for _ in range(2)], example=example
    )
    assert (group.num_classes, group.embedding_dims, group.feature_shapes) == (3, (16, 16), ((6, 16), (6, 16)))
    assert [each.out_features for each in group.classifiers] == [3, 3]
    student = group.student(1)
    assert isinstance(student, type(AutoModelForSequenceClassification.from_config(config_of("bert"))))
    before = student.classifier.weight.clone()
    with torch.no_grad():
        group.classifiers[1].weight.add_(1)
    assert torch.equal(student.classifier.weight, before)
    group(example).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in group.parameters())


def test_networks_that_do_not_fit_are_named():
    with pytest.raises(
        CoterieError, match=r"BertForSequenceClassification does not take 600 tokens: .*lower data\.max_length"
    ):
        SequenceClassifier(build_classifier(config_of("bert")), example_inputs(1, 600))
    with pytest.raises(CoterieError, match="the configuration gives no sequence classifier"):
        build_classifier({"model_type": "vit"})
    network = build_classifier(config_of("bert"))
    network.later = nn.Linear(3, 3)
    with pytest.raises(CoterieError, match="does not end with a linear classifier"):
        SequenceClassifier(network, example_inputs(1))
