"""Export formats of speech encoders. This module imports nothing heavy."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (
    Format("transformers", "coterie.tasks.speech.export:write_transformers", "transformers", described=False),
    Format("onnx", "coterie.tasks.speech.export:write_onnx", "onnx"),
)
