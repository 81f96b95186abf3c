"""Networks by name: timm's, and coterie's own, which timm knows from here on."""

from __future__ import annotations

from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.options import require_harmless_options, require_plain_name
from coterie.networks.papers.registration import register


def create_network(name: str, **options: Any) -> nn.Module:
    """``timm.create_model`` that knows coterie's networks and names the nearest spelling of an unknown one.

    Raises:
        CoterieError: an unknown name, or arguments that the network does not take or that would load, fetch or write something.
    """
    import timm

    register()
    require_plain_name(name)
    own = {"pretrained", "num_classes"}  # the caller's words; no file's options reach them, see below
    require_harmless_options({key: value for key, value in options.items() if key not in own}, "network.options")
    if not timm.is_model(name):
        raise CoterieError(
            f"unknown network {name!r}{did_you_mean(name.partition('.')[0], timm.list_models())}; expected a name of timm.list_models()"
        )
    try:
        return timm.create_model(name, **options)
    except Exception as error:
        # timm's constructors raise what they like; the last line says what was wrong with the arguments.
        detail = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise CoterieError(f"network {name!r} cannot be built with {options}: {detail}") from error
