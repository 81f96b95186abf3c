from __future__ import annotations

import pytest

from coterie.errors import CoterieError
from coterie.networks.options import require_harmless_options, require_plain_name


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained": True},
        {"pretrained_cfg": {"url": "x"}},
        {"pretrained_cfg_overlay": {"file": "x"}},
        {"checkpoint_path": "a"},
        {"cache_dir": "a"},
        {"scriptable": True},
        {"block_args": {"hf_hub_id": "a"}},
        {"act_layer": ["gelu", "https://example.org"]},
        {"weight_init": "../weights.npz"},
        {"num_classes": 3},
        {"act_layer": object()},
    ],
)
def test_what_loads_fetches_or_writes_is_refused(options):
    with pytest.raises(CoterieError):
        require_harmless_options(options, "options")


def test_an_architectures_options_pass():
    require_harmless_options(
        {"drop_path_rate": 0.1, "img_size": [32, 32], "in_chans": 1, "act_layer": "gelu", "embed_args": {"a": None}}, ""
    )


@pytest.mark.parametrize("name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:/tmp/a", "a/b", "timm:resnet18"])
def test_names_of_places_are_refused(name):
    with pytest.raises(CoterieError, match="names a place"):
        require_plain_name(name)
