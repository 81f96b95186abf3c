"""Creates networks by name: timm's, and coterie's own, which this module registers with timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.options import require_harmless_options, require_plain_name
from coterie.networks.papers.registration import register


def create_network(name: str, **options: Any) -> nn.Module:
    """``timm.create_model`` that knows coterie's networks and suggests the closest name for an unknown one.

    Raises:
        CoterieError: an unknown name, or arguments that the network does not accept or that would load, download or write something.
    """
    import timm

    register()
    require_plain_name(name)
    own = {"pretrained", "num_classes"}  # set by the caller; options from files cannot reach them, see below
    require_harmless_options({key: value for key, value in options.items() if key not in own}, "network.options")
    if not timm.is_model(name):
        raise CoterieError(
            f"unknown network {name!r}{did_you_mean(name.partition('.')[0], timm.list_models())}; expected a name of timm.list_models()"
        )
    try:
        return timm.create_model(name, **options)
    except Exception as error:
        # timm's constructors raise arbitrary exceptions; the last line says what is wrong with the arguments.
        detail = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise CoterieError(f"network {name!r} cannot be built with {options}: {detail}") from error
