"""Methods in transformers' ``Trainer``, for images and texts; for language models see docs/language-trainers.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.integrations.following import follow
from coterie.methods.progress import Progress

if TYPE_CHECKING:
    from coterie.methods.method import Method

try:
    from transformers import Trainer
except ImportError:
    raise CoterieError('coterie.integrations.transformers needs transformers: pip install "coterie[text]"') from None


class MethodTrainer(Trainer):
    """A ``Trainer`` whose model is a method: ``MethodTrainer(model=method, args=TrainingArguments(...), train_dataset=...)``.

    Batches are mappings with ``labels``. If the only other key is ``pixel_values`` (images), the method gets it as a tensor. Set
    ``remove_unused_columns=False``, because the method's signature names no columns.

    Beside ``loss`` it logs each term of the loss as ``loss/<term>``: its mean over the batches since the last log, of the main process's own batches.
    """

    progress: Progress | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sums: dict[str, Tensor] = {}  # of each term since the last log, on the device
        self._batches = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        rest = dict(inputs)
        labels = rest.pop("labels")
        batch = rest["pixel_values"] if rest.keys() == {"pixel_values"} else rest
        losses = model(batch, labels, self.progress)
        loss: Tensor = torch.stack(tuple(losses.values())).sum()
        terms = {name: each.detach() for name, each in losses.items()}
        if model.training:
            self._sums = {name: each + self._sums.get(name, 0.0) for name, each in terms.items()}
            self._batches += 1
        return (loss, terms) if return_outputs else loss

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Logs the terms of the loss together with the loss."""
        if "loss" in logs and self._batches:
            means = torch.stack(tuple(self._sums.values())).div(self._batches).tolist()
            logs |= {f"loss/{name}": mean for name, mean in zip(self._sums, means, strict=True)}
            self._sums, self._batches = {}, 0
        super().log(logs, *arguments, **options)

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Creates the optimizer of transformers and attaches the method to it."""
        optimizer = super().create_optimizer(*arguments, **options)
        if self.progress is None:
            steps = self.args.max_steps
            loader = self.get_train_dataloader()
            each = max(1, len(loader) // self.args.gradient_accumulation_steps)
            epochs = math.ceil(self.args.num_train_epochs) if steps <= 0 else max(1, math.ceil(steps / each))
            self.progress = follow(cast("Method", self.model), optimizer, epochs=epochs, steps_per_epoch=each)
        return optimizer
