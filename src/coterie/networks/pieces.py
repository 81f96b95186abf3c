"""Building blocks of groups: parts of a split network, and gradient averaging at the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from coterie.networks.recording import Constant, attached


class TwoModeModule(nn.Module):
    """A part of a network as a graph; if train mode has a different graph, that one uses the same modules.

    Args:
        body: the graph of eval mode, also of train mode if ``train_body`` is None.
        train_body: the graph of train mode; None: the same.
        exceptions: for train mode and eval mode, the modules that the network keeps in the other mode.
    """

    def __init__(
        self, body: fx.GraphModule, train_body: fx.GraphModule | None, exceptions: Mapping[bool, Sequence[str]]
    ) -> None:
        super().__init__()
        self.body = body
        # In a tuple, so that it is not registered: its modules belong to the body.
        self.train_body = (train_body,)
        known = dict(body.named_modules())
        self.exceptions = {mode: tuple(name for name in names if name in known) for mode, names in exceptions.items()}

    @staticmethod
    def build(
        network: nn.Module,
        graphs: Sequence[fx.Graph],
        name: str,
        constants: Mapping[str, Tensor] | None = None,
        exceptions: Mapping[bool, Sequence[str]] | None = None,
    ) -> nn.Module:
        """Builds the module from a network's modules and its graphs: of eval mode, then of train mode if that differs.

        Args:
            network: the network whose modules the graphs call.
            graphs: one or two.
            name: name of the class.
            constants: tensors that the graphs call as modules of these names.
            exceptions: see :class:`TwoModeModule`.
        """
        made = {name: Constant(value) for name, value in (constants or {}).items()}
        with attached(network, made):
            body = fx.GraphModule(network, graphs[0], class_name=name)
            if len(graphs) == 1:
                own = TwoModeModule(body, None, exceptions or {})
                return own if any(own.exceptions.values()) else body
            for node in graphs[1].nodes:  # modules that are called in train mode only
                target = str(node.target)
                if node.op == "call_module" and target not in dict(body.named_modules()):
                    body.add_submodule(target, made[target] if target in made else network.get_submodule(target))
        return TwoModeModule(body, fx.GraphModule(body, graphs[1], class_name=f"Training{name}"), exceptions or {})

    def train(self, mode: bool = True) -> TwoModeModule:
        """Sets train or eval mode, except for the modules that the network itself excludes."""
        super().train(mode)
        for name in self.exceptions.get(mode, ()):
            self.body.get_submodule(name).training = not mode
        return self

    def forward(self, *inputs: Any) -> Any:
        (train_body,) = self.train_body
        return train_body(*inputs) if self.training and train_body is not None else self.body(*inputs)


class AverageGradient(torch.autograd.Function):
    """Identity whose gradient is divided by the number of students."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, students: int) -> Tensor:
        ctx.students = students
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] / ctx.students, None


class Assembled(nn.Module):
    """Trunk and branch of a manually built group, as one network that returns logits."""

    def __init__(self, trunk: nn.Module | None, branch: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.branch = branch

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs if self.trunk is None else self.trunk(inputs)
        return self.branch(*values)[0] if isinstance(values, tuple) else self.branch(values)[0]


def body_of(part: nn.Module) -> nn.Module:
    """Returns the module that contains the named modules of a trunk or branch."""
    return part.body if isinstance(part, TwoModeModule) else part
