"""Export format of language models. This module imports nothing heavy."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (Format("transformers", "coterie.tasks.language.export:write_transformers", "transformers", described=False),)
