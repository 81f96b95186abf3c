"""The export formats of image classifiers, the default first. Nothing heavy is imported."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (
    Format("timm", "coterie.tasks.images.export:write_timm", "timm", described=False),
    Format(
        "onnx",
        "coterie.tasks.images.export:write_onnx",
        "onnx",
        ensembles=True,
        quantizer="coterie.tasks.images.quantization:quantize",
    ),
    Format("pt2", "coterie.tasks.images.export:write_pt2", "pytorch", ensembles=True),
    Format("safetensors", "coterie.tasks.images.export:write_safetensors", "pytorch", ensembles=True),
)
