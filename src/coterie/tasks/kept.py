"""Per-sample results of an evaluation: the predicted class of every sample, and logits of the first ones only."""

from __future__ import annotations

import torch
from torch import Tensor

SAVED_PREDICTIONS = 10_000  # samples


class KeptPredictions:
    """The class predicted by each student for each sample, and float16 logits of the first ``SAVED_PREDICTIONS`` of a split, filled by batch in any order.

    Args:
        samples: number of samples, N; their indices are 0 to N - 1.
        whole: whether to keep the students' float32 logits of all samples too.

    Attributes:
        state: tensors by name. The first axis, after the axis [n] of ``logits``, ``predicted`` and ``whole``, is that of the samples, with an additional last
            entry for padding samples and values that are not kept. The tensors of several processes are summed.
    """

    def __init__(self, samples: int, whole: bool = False) -> None:
        self.samples, self.whole = samples, whole
        self.saved = min(samples, SAVED_PREDICTIONS)
        self.state: dict[str, Tensor] = {}

    def add(self, logits: Tensor, ensemble: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Add a batch. Nothing is read on the host.

        Args:
            logits: logits of every student, float32 [n, B, K].
            ensemble: logits of the method's own ensemble, float32 [B, K].
            targets: class indices [B].
            indices: indices of the samples, -1 for padding samples.
        """
        if not self.state:
            self.state = self._empty(logits)
        state = self.state
        place = torch.where(indices >= 0, indices, self.samples)
        early = place.clamp(max=self.saved)
        state["predicted"].index_copy_(1, place, logits.argmax(-1).int())
        state["labels"].index_copy_(0, place, targets)
        state["logits"].index_copy_(1, early, _half(logits))
        state["ensemble"].index_copy_(0, early, _half(ensemble))
        if self.whole:
            state["whole"].index_copy_(1, place, logits)

    def _empty(self, logits: Tensor) -> dict[str, Tensor]:
        students, _, classes = logits.shape
        device, rows, early = logits.device, self.samples + 1, self.saved + 1
        return {
            "predicted": torch.zeros(students, rows, dtype=torch.int32, device=device),
            "labels": torch.zeros(rows, dtype=torch.int64, device=device),
            "logits": torch.zeros(students, early, classes, dtype=torch.float16, device=device),
            "ensemble": torch.zeros(early, classes, dtype=torch.float16, device=device),
            **({"whole": torch.zeros(students, rows, classes, device=device)} if self.whole else {}),
        }

    def drop_fillers(self) -> None:
        """Set the last entries, which hold values that are not kept, to zero, so that several processes can be summed."""
        for name, values in self.state.items():
            values.select(1 if name in {"predicted", "logits", "whole"} else 0, -1).zero_()

    def predicted(self) -> Tensor:
        """Returns the predicted classes, int64 [n, N]."""
        return self.state["predicted"][:, : self.samples].cpu().long()

    def labels(self) -> Tensor:
        """Returns the labels, int64 [N]."""
        return self.state["labels"][: self.samples].cpu()

    def logits(self) -> Tensor | None:
        """Returns the logits of all samples, float32 [n, N, K]; None if they are not kept."""
        return self.state["whole"][:, : self.samples].cpu() if self.whole else None

    def predictions(self) -> dict[str, Tensor]:
        """Returns, for the first samples, ``logits`` float16 [n, M, K], ``ensemble`` float16 [M, K], ``labels`` and ``indices`` int64 [M]."""
        return {
            "logits": self.state["logits"][:, : self.saved].cpu(),
            "ensemble": self.state["ensemble"][: self.saved].cpu(),
            "labels": self.state["labels"][: self.saved].cpu(),
            "indices": torch.arange(self.saved),
        }


def _half(logits: Tensor) -> Tensor:
    """Converts to float16; values that are too large are clamped to its largest number."""
    largest = torch.finfo(torch.float16).max
    return logits.clamp(-largest, largest).half()
