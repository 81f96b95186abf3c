import time

import pytest
import timm

from coterie.errors import CoterieError
from coterie.networks import hub
from coterie.tasks.images.pretrained import require_at_hand, why_not_at_hand


@pytest.fixture
def online(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def answer(monkeypatch, ask):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)


def test_a_network_without_weights_is_said_to_have_none():
    for name in ("tiny_cifar", "resnet20_cifar", "no_such_network"):
        assert why_not_at_hand(name) == "timm has no weights of it"


def test_a_hub_that_answers_has_the_weights(monkeypatch, online):
    asked = []
    answer(monkeypatch, lambda address, timeout: asked.append(address))
    assert why_not_at_hand("resnet18") is None
    assert "timm/resnet18" in asked[0]


def test_a_hub_that_fails_or_is_silent_is_given_up_on(monkeypatch, online):
    def fail(address, timeout):
        raise ConnectionError("no route\nto host")

    answer(monkeypatch, fail)
    assert why_not_at_hand("resnet18") == "ConnectionError: no route to host"
    monkeypatch.setattr(hub, "DEADLINE", 0.1)
    answer(monkeypatch, lambda address, timeout: time.sleep(2))
    assert why_not_at_hand("resnet18") == "no answer within 0.1 s"
    with pytest.raises(
        CoterieError, match=r"network.pretrained=true: the pretrained weights of 'resnet18' are not to be"
    ):
        require_at_hand("resnet18", "network.pretrained")


def test_weights_in_the_cache_need_no_answer(monkeypatch, online, tmp_path):
    import huggingface_hub

    answer(monkeypatch, lambda address, timeout: pytest.fail("the Hub was asked"))
    config = timm.get_pretrained_cfg("resnet18")
    found = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repository, file: found if repository == config.hf_hub_id else None,
    )
    assert why_not_at_hand("resnet18") is None


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    answer(monkeypatch, lambda address, timeout: pytest.fail("the Hub was asked"))
    assert "HF_HUB_OFFLINE" in why_not_at_hand("resnet18")
