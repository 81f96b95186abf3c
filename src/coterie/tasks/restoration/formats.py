"""Export formats of restoration networks. This module imports nothing heavy."""

from __future__ import annotations

from coterie.tasks.formats import Format

FORMATS = (
    Format("diffusers", "coterie.tasks.restoration.export:write_diffusers", "diffusers"),
    Format("lora", "coterie.tasks.restoration.export:write_lora", "peft"),
    Format("pt2", "coterie.tasks.restoration.export:write_pt2", "pytorch"),
)
