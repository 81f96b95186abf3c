"""The deployed student as two files: ``student.safetensors`` (weights, keys of the plain network) and ``student.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.files import write_atomically, write_json
from coterie.networks.options import require_harmless_options, require_plain_name
from coterie.networks.papers.registration import register
from coterie.run_folder import RunFolder
from coterie.run_lock import require_finished


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


def save_student(folder: RunFolder, network: nn.Module, description: dict[str, Any]) -> None:
    """Write the plain network's weights and how it is built, each in one move."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(folder.student, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(folder.student_description, description)


def _described(description: dict[str, Any]) -> nn.Module:
    """The untrained network that ``student.json`` describes."""
    if description.get("task") == "text_classification":
        from coterie.tasks.texts.sequence_classifier import build_classifier

        return build_classifier(description["config"])
    require_harmless_options(description["options"], "student.json: options")
    return create_network(description["network"], num_classes=description["num_classes"], **description["options"])


def prepared_for(network: nn.Module, description: dict[str, Any]) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a student: how its images are prepared, by which ``timm.data.resolve_model_data_config`` goes.

    Args:
        network: built by timm.
        description: contents of ``student.json``.
    """
    built_in: Any = network.pretrained_cfg
    # Timm converts a first convolution that it believes was trained on colour images; these weights fit as they are.
    kept = ("classifier", "fixed_input_size") + (("first_conv",) if description["input_size"][0] == 3 else ())
    return {
        **{key: built_in[key] for key in kept if built_in.get(key) is not None},
        "num_classes": description["num_classes"],
        "input_size": list(description["input_size"]),
        "mean": description["mean"],
        "std": description["std"],
        "interpolation": description["interpolation"],
        "crop_pct": description["crop"],
        "crop_mode": "center",
        "custom_load": False,
    }


def load_student(run: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load the deployed student of a finished run as a plain network in eval mode.

    Args:
        run: the run's folder.
        network: the untrained network, where the run was trained on a module of one's own rather than a named one.

    Returns:
        The network on the CPU, weights loaded strictly.

    Raises:
        CoterieError: no run, a run without a student, damaged weights, or a network that they do not fit.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise CoterieError(f"network={type(network).__name__}: expected the untrained network, a module")
    folder = RunFolder(run).require()
    require_finished(folder)
    description = folder.read_description()
    if network is None:
        if description["network"] is None:
            raise CoterieError(
                f"the run {str(run)!r} was trained on a network of your own: pass it, load_student(run, network=...)"
            )
        network = _described(description)
    try:
        network.load_state_dict(load_file(folder.student), strict=True)
    except (SafetensorError, OSError) as error:
        raise CoterieError(f"{str(folder.student)!r} is damaged: {error}") from None
    except RuntimeError as error:
        raise CoterieError(
            f"{str(folder.student)!r} does not fit this network: {str(error).splitlines()[-1].strip()[:160]}"
        ) from None
    if description["network"] is not None and hasattr(network, "pretrained_cfg") and "input_size" in description:
        network.pretrained_cfg = {**prepared_for(network, description), "label_names": description["class_names"]}  # type: ignore[assignment]
    return network.eval()
