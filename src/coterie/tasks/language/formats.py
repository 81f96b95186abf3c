"""The format in which language models are exported. Nothing heavy is imported."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (Format("transformers", "coterie.tasks.language.export:write_transformers", "transformers", described=False),)
