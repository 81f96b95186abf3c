"""Export of speech encoders as folders of transformers, and as ONNX: clips of any length to features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import RunError
from coterie.methods.speech.encoder import SpeechEncoder, normalised
from coterie.networks.hugging_face import quiet_transformers
from coterie.tasks.exporting import Subject, relative_difference, require_close, require_onnx, save_graph, traced

CHECKED = ((1, 16_000), (3, 5_321))  # clips and samples
TOLERANCE = 1e-5  # absolute, or relative to the largest feature if that is above 1


def write_transformers(subject: Subject, folder: Path, gallery: Path) -> str:
    """Write configuration, weights and feature extractor; see :class:`coterie.tasks.formats.Format`."""
    network: Any = subject.network
    described = subject.description
    masked = getattr(network.config, "feat_extract_norm", "group") == "layer"
    with quiet_transformers() as transformers:
        extractor = transformers.Wav2Vec2FeatureExtractor(
            sampling_rate=described["sample_rate"], do_normalize=described["normalize"], return_attention_mask=masked
        )
        network.save_pretrained(folder)
        extractor.save_pretrained(folder)
        loaded = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
        read = transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    kept = all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    encoder = SpeechEncoder(network, described["normalize"]).eval()
    difference = 0.0
    for clip in _clips()[0]:
        heard = read(clip.numpy(), sampling_rate=described["sample_rate"], return_tensors="pt").input_values
        with torch.inference_mode():
            expected = encoder(clip[None], torch.tensor([len(clip)]), [encoder.num_layers]).states[0]
            difference = max(difference, relative_difference(expected, loaded(heard).last_hidden_state))
    if not kept or difference > TOLERANCE:
        raise RunError(
            f"transformers builds the network from the export with other features: they differ by {difference:.2g}"
        )
    return f"transformers loads it with features that differ by {difference:.1g} at most."


class Listening(nn.Module):
    """A network of transformers with the normalisation of its clips: waveforms [B, S] to features [B, T, D]."""

    def __init__(self, network: nn.Module, normalize: bool) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def forward(self, waveforms: Tensor) -> Tensor:
        if self.normalize:
            lengths = torch.full_like(waveforms[:, 0], waveforms.shape[1], dtype=torch.int64)
            waveforms = normalised(waveforms, lengths)
        return self.network(waveforms).last_hidden_state


def write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    """Write ``model.onnx``, raw clips of equal length to features, with dynamic number and length of clips; return what was compared."""
    onnxruntime = require_onnx()
    described = subject.description
    network = Listening(subject.network, described["normalize"]).eval()
    example = torch.randn(2, 6_400, generator=torch.Generator().manual_seed(0))
    axes = {0: torch.export.Dim("clips", min=1), 1: torch.export.Dim("samples", min=1_600)}
    about = {"task": "speech", "sample_rate": described["sample_rate"], "inputs": ["waveforms"], "output": "features"}
    path = folder / "model.onnx"
    metadata = {key: json.dumps(value) for key, value in about.items()}
    save_graph(lambda: traced(network, (example,), (axes,)), path, ["waveforms"], metadata, output="features")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = 0.0
    for clips in _clips():
        with torch.inference_mode():
            expected = network(clips)
        (actual,) = session.run(None, {"waveforms": clips.numpy()})
        if actual.shape != tuple(expected.shape):
            raise RunError(
                f"the export gives {actual.shape} for clips {list(clips.shape)}, not {tuple(expected.shape)}"
            )
        difference = max(difference, relative_difference(expected, torch.from_numpy(actual)))
    require_close(difference, "onnx")
    return f"ONNX Runtime's features differ from PyTorch's by {difference:.1g}, on {' and '.join(f'{b} x {s:,} samples' for b, s in CHECKED)}."


def _clips() -> list[Tensor]:
    """Return noise to compare the outputs on."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(*shape, generator=generator) for shape in CHECKED]
