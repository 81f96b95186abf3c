"""From hidden states to logits: what a network does after its output embedding, so that logits can be made of some positions at a time.

Architectures cap or scale what the output embedding gives, by numbers in their configuration. Which of them does what is not looked up by name: forms are tried, and
the one that gives the network's own logits is taken. Where none does, logits are computed whole.
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
SPREADS = (0.5, 50.0)  # of the logits that forms are told apart by: a cap shows at large ones only
# Logits of all students and teachers in a batch, above which they are made in parts: 256 MiB in float32, and a loss keeps two to six times as much.
WHOLE_LOGITS = 2**26


@dataclass(frozen=True)
class Finish:
    """What happens to the products of hidden states and output embedding, [n, V]."""

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
    """What a network does after its output embedding; None where no known form gives its logits.

    Args:
        head: the output embedding. Anything but a plain linear layer, such as one with LoRA beside it, has no known form.
        config: the network's configuration.
        logits_of: the network's logits [n, V] of inputs of the head [n, d].
    """
    if type(head) is not nn.Linear:
        return None
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, head.in_features, generator=generator).to(head.weight)
    size = nn.functional.linear(probes, head.weight).float().std()
    if not size > 0:  # nothing can be told of a head of zeros
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
    """Those that a configuration allows, the plain one first."""
    factors, divisors, caps = (_numbers(config, names) for names in (FACTORS, DIVISORS, CAPS))
    for factor, divisor, cap in product([1.0, *factors], [1.0, *divisors], [None, *caps]):
        yield Finish(factor, divisor, cap)


def _numbers(config: Any, names: Sequence[str]) -> list[float]:
    """What a configuration, or the text's part of one, has under these names."""
    parts = [config, getattr(config, "text_config", None)]
    found = [getattr(part, name, None) for part in parts for name in names]
    return [float(value) for value in found if isinstance(value, int | float) and not isinstance(value, bool) and value]
