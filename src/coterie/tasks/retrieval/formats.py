"""Export formats of dual encoders. This module imports nothing heavy."""

from __future__ import annotations

from coterie.tasks.formats import Format

LIBRARY = "sentence-transformers"
FORMATS = (
    Format("sentence-transformers", "coterie.tasks.retrieval.export:write_encoder", LIBRARY, described=False),
    Format("router", "coterie.tasks.retrieval.export:write_router", LIBRARY, described=False),
    Format("onnx", "coterie.tasks.retrieval.export:write_onnx", LIBRARY),
)
