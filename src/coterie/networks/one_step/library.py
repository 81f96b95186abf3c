"""Access to the package diffusers: imported when a network is needed, silenced, and limited to files that execute no code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.hub import why_not_on_the_hub

UNET_FILES = ("unet/config.json", "config.json")


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[Any]:
    """Yields the package with its output silenced. What it would print while loading is raised as an error or is irrelevant.

    Raises:
        CoterieError: it is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise CoterieError(
            "diffusion networks need the packages diffusers and peft: pip install 'coterie[restoration]'"
        ) from None
    verbosity = diffusers.utils.logging.get_verbosity()
    bars = diffusers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.FATAL)
    diffusers.utils.logging.disable_progress_bar()
    try:
        yield diffusers
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)
        if bars:
            diffusers.utils.logging.enable_progress_bar()


def require_place(name: str) -> str:
    """Checks that the name is a local folder or a reachable repository on the Hub.

    Raises:
        CoterieError: no such folder, or a Hub that cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CoterieError(
            f"there is no folder {name!r}; expected tiny_unet, a folder of diffusers or a name of the Hub"
        )
    reason = why_not_on_the_hub(name, UNET_FILES)
    if reason is not None:
        near = did_you_mean(name, ["tiny_unet"])
        raise CoterieError(f"there is no folder {name!r}{near}, and of the Hub's files of that name: {reason}")
    return name


def part_of(place: str, part: str) -> str | None:
    """Returns the ``subfolder`` of a pipeline's part (``unet``, ``vae``, ...); None if a local folder lacks it. The Hub is assumed to have all."""
    path = Path(place)
    return part if not path.is_dir() or (path / part).is_dir() else None


def load_model(kind: str, place: str, subfolder: str | None = None) -> nn.Module:
    """Loads a model with its weights, in float32 and eval mode.

    Args:
        kind: its class in diffusers.
        place: result of :func:`require_place`.
        subfolder: subfolder of ``place``; None: the folder itself.

    Raises:
        CoterieError: it cannot be loaded.
    """
    options: dict[str, Any] = {} if subfolder is None else {"subfolder": subfolder}
    with quiet_diffusers() as diffusers:
        import torch

        try:
            model: nn.Module = getattr(diffusers, kind).from_pretrained(
                place, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False, **options
            )
        except Exception as error:  # files, network, formats: the library raises many exception types
            where = f"{place}/{subfolder}" if subfolder else place
            raise CoterieError(
                f"no {kind} with safetensors weights in {where!r}: {' '.join(str(error).split())[:160]}"
            ) from None
    return model.eval()


def config_of(model: Any) -> dict[str, Any]:
    """Returns a model's configuration as JSON values, without local paths."""
    described: dict[str, Any] = json.loads(json.dumps(dict(model.config), default=str))
    return {key: value for key, value in described.items() if not key.startswith("_")}


def build_model(kind: str, config: dict[str, Any]) -> nn.Module:
    """Builds an untrained model from a configuration.

    Raises:
        CoterieError: values that the class does not accept.
    """
    with quiet_diffusers() as diffusers:
        try:
            model: nn.Module = getattr(diffusers, kind)(**config)
        except Exception as error:  # the library raises many exception types
            raise CoterieError(f"no {kind} of these settings: {' '.join(str(error).split())[:160]}") from None
    return model.eval()
