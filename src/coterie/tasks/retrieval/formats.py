"""The formats in which dual encoders are exported. Nothing heavy is imported."""

from __future__ import annotations

from coterie.tasks.formats import Format

LIBRARY = "sentence-transformers"
FORMATS = (
    Format("sentence-transformers", "coterie.tasks.retrieval.export:write_encoder", LIBRARY, described=False),
    Format("router", "coterie.tasks.retrieval.export:write_router", LIBRARY, described=False),
    Format("onnx", "coterie.tasks.retrieval.export:write_onnx", LIBRARY),
)
