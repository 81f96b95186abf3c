"""Methods in other training loops: Lightning, transformers' Trainer, timm's tasks, accelerate, or a custom loop.

All of them use :func:`follow`, which tracks a method's progress and runs the method's hooks after each optimizer step.
"""

from coterie.integrations.following import follow, save_student

__all__ = ["follow", "save_student"]
