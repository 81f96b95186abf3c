"""The export formats of text classifiers, the default first. Nothing heavy is imported."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (
    Format("transformers", "coterie.tasks.texts.export:write_transformers", "transformers", described=False),
    Format("onnx", "coterie.tasks.texts.export:write_onnx", "onnx"),
)
