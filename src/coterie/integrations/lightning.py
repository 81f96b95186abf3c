"""Methods in Lightning: ``Trainer(max_epochs=90).fit(MethodModule(method, build_optimizer), loader)``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from coterie.errors import CoterieError
from coterie.integrations.following import follow, save_student
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Method
from coterie.methods.progress import Progress

try:
    import lightning.pytorch as pl
except ImportError:
    raise CoterieError('coterie.integrations.lightning needs Lightning: pip install "lightning"') from None


class MethodModule(pl.LightningModule):
    """A Lightning module that trains a method: batches are (inputs, targets), losses are logged as ``train/<term>``.

    Args:
        method: see :func:`coterie.create_method`.
        build_optimizer: builds the optimizer from parameter groups, ``lambda groups: torch.optim.SGD(groups, lr=0.1)``.
        build_schedule: builds a schedule from the optimizer, stepped after every epoch; None: a constant learning rate.
    """

    def __init__(
        self,
        method: Method,
        build_optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        build_schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.method, self.build_optimizer, self.build_schedule = method, build_optimizer, build_schedule
        self.progress: Progress | None = None

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer(self.method.parameter_groups())
        epochs, steps = self.trainer.max_epochs, int(self.trainer.estimated_stepping_batches)
        if not epochs or epochs < 1:
            raise CoterieError("Trainer(max_epochs=...) is needed: methods ramp up over the epochs")
        self.progress = follow(self.method, optimizer, epochs=epochs, steps_per_epoch=max(1, steps // epochs))
        if self.build_schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.build_schedule(optimizer)}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        losses = self.method(inputs, targets, self.progress)
        self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.items()})
        return torch.stack(tuple(losses.values())).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs ``validation/top1`` of the student that would be deployed, for methods whose students return logits."""
        inputs, targets = batch
        if isinstance(self.method, GroupMethod):
            logits = self.method.predict(inputs).deployed
            self.log("validation/top1", (logits.argmax(-1) == targets).float().mean(), batch_size=len(targets))


class ExportStudent(pl.Callback):
    """Callback that writes the deployed student when training has ended: ``ExportStudent("student.safetensors")``.

    Args:
        path: path of the file, whose keys are those of the plain network.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, MethodModule):
            raise CoterieError(f"ExportStudent takes a MethodModule, not {type(pl_module).__name__}")
        if trainer.is_global_zero:
            save_student(pl_module.method, self.path)
