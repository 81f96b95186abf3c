"""What a network does between its output embedding and its logits. It must be known to compute logits in chunks of positions.

Architectures cap or scale the output of the output embedding, by numbers in their configuration. The form is not looked up by architecture: known forms are tried, and
the one that reproduces the network's own logits is used. If none does, the logits of the whole batch are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

# Names in configurations: Cohere multiplies by the first, Falcon-H1 by the second, Granite divides by the third, Gemma caps by the fourth.
FACTORS, DIVISORS, CAPS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",), ("final_logit_softcapping",)
PROBES = 8
SPREADS = (0.5, 50.0)  # standard deviations of the logits on which forms are compared: a cap affects only large ones
# Number of logits of all students and teachers in a batch above which chunks are used: 256 MiB in float32, and a loss keeps two to six times as much.
WHOLE_LOGITS = 2**26


@dataclass(frozen=True)
class Finish:
    """Turns the products of hidden states and output embedding, [n, V], into logits."""

    factor: float = 1.0
    divisor: float = 1.0
    cap: float | None = None
    """The largest size of a logit, by a hyperbolic tangent."""
    vocabulary: int | None = None
    """Logits that are returned, from the first on; None: all."""

    def __call__(self, products: Tensor) -> Tensor:
        if self.factor != 1.0:
            products = products * self.factor
        if self.divisor != 1.0:
            products = products / self.divisor
        if self.cap is not None:
            products = torch.tanh(products / self.cap) * self.cap
        return products if self.vocabulary is None else products[:, : self.vocabulary]


def find_finish(head: nn.Module, config: Any, logits_of: Callable[[Tensor], Tensor]) -> Finish | None:
    """Find what a network does after its output embedding; None if no known form reproduces its logits.

    Args:
        head: the output embedding. Only plain linear layers are supported; one with LoRA, for example, has no known form.
        config: the network's configuration.
        logits_of: maps inputs of the head [n, d] to the network's logits [n, V].
    """
    if type(head) is not nn.Linear:
        return None
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, head.in_features, generator=generator).to(head.weight)
    size = nn.functional.linear(probes, head.weight).float().std()
    if not size > 0:  # a head of zeros does not distinguish forms
        return None
    probes = torch.cat([probes * (spread / size).to(probes) for spread in SPREADS])
    expected = logits_of(probes).float()
    products = head(probes)
    tolerance = 1e-4 if head.weight.dtype in (torch.float32, torch.float64) else 2e-2
    for form in _forms(config):
        found = form(products).float()
        if found.shape == expected.shape and torch.allclose(found, expected, atol=tolerance, rtol=tolerance):
            return form
    return None


def _forms(config: Any) -> Iterable[Finish]:
    """Yield the forms that a configuration allows, the plain one first."""
    factors, divisors, caps = (_numbers(config, names) for names in (FACTORS, DIVISORS, CAPS))
    for factor, divisor, cap in product([1.0, *factors], [1.0, *divisors], [None, *caps]):
        yield Finish(factor, divisor, cap)


def _numbers(config: Any, names: Sequence[str]) -> list[float]:
    """Return the numbers that a configuration, or its ``text_config``, has under these names."""
    parts = [config, getattr(config, "text_config", None)]
    found = [getattr(part, name, None) for part in parts for name in names]
    return [float(value) for value in found if isinstance(value, int | float) and not isinstance(value, bool) and value]
