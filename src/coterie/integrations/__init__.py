"""Methods in other people's training loops: Lightning, transformers' Trainer, timm's tasks, accelerate, or a loop of one's own.

All of them stand on :func:`follow`, which keeps a method's progress and does after each optimizer step what the method needs.
"""

from coterie.integrations.following import follow, save_student

__all__ = ["follow", "save_student"]
