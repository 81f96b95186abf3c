"""Base class of coterie's own networks: head with timm's conventions, initial values, timm's configuration.

Each architecture has its own module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from coterie.errors import CoterieError, did_you_mean

POOL_TYPES = ("avg", "max", "avgmax", "catavgmax", "")


class ImageClassifier(nn.Module):
    """A network that maps images [B, C, H, W] to logits [B, num_classes], with timm's interface around its head.

    A subclass builds its layers, then calls ``attach_head``, and defines ``forward_features``. It must be traceable by ``torch.fx``: no branch of the code may
    depend on an input.

    Attributes:
        suggested_split: name of the submodule at which the papers' branches start; everything before it is shared.
        num_features: channels of the last feature map.
        head_hidden_size: width of the embedding, the classifier's input.
        num_classes: 0 when there is no classifier.
    """

    suggested_split: str = "layer3"
    num_features: int
    head_hidden_size: int
    num_classes: int

    def attach_head(
        self,
        num_features: int,
        num_classes: int,
        *,
        global_pool: str,
        drop_rate: float,
        hidden: nn.Module | None = None,
    ) -> None:
        """Adds pooling, hidden layers, dropout and classifier, then initialises the whole network.

        Args:
            num_features: channels of the last feature map.
            num_classes: outputs of the classifier; 0: no classifier.
            global_pool: one of ``POOL_TYPES``; empty keeps the map, which a classifier cannot take.
            drop_rate: dropout on the classifier's input.
            hidden: layers between pooling and classifier; input and output widths equal the map's channels.

        Raises:
            CoterieError: unknown pooling, or one whose output the head cannot take.
        """
        self.num_features = num_features
        self.drop_rate = drop_rate
        self.hidden = nn.Identity() if hidden is None else hidden
        self._set_pool_and_classifier(num_classes, global_pool)
        for module in self.modules():
            self.initialise(module)

    def _set_pool_and_classifier(self, num_classes: int, global_pool: str) -> None:
        if global_pool not in POOL_TYPES:
            known = ", ".join(repr(name) for name in POOL_TYPES)
            raise CoterieError(
                f"unknown global_pool {global_pool!r}{did_you_mean(global_pool, POOL_TYPES)}; expected one of {known}"
            )
        has_hidden = not isinstance(self.hidden, nn.Identity)
        if not global_pool and (num_classes > 0 or has_hidden):
            raise CoterieError("global_pool='' keeps the feature map: it needs num_classes=0 and no hidden layers")
        pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if has_hidden and pool.feat_mult() != 1:
            raise CoterieError(f"global_pool={global_pool!r} changes the width that the hidden layers expect")
        self.num_classes = num_classes
        self.global_pool = pool
        self.head_hidden_size = self.num_features * pool.feat_mult()
        self.head_drop = nn.Dropout(self.drop_rate)
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()

    def initialise(self, module: nn.Module) -> None:
        """Initialises one module: He's normal (fan-out) for convolutions, zero for their biases.

        BatchNorm (1 and 0) and linear layers keep PyTorch's defaults, as in OKDDip's code.
        """
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Returns the last feature map before pooling, [B, num_features, h, w]."""
        raise TypeError(f"{type(self).__name__} does not define its feature map")

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits [B, num_classes] of a feature map, or the classifier's input if ``pre_logits``."""
        embedding = self.head_drop(self.hidden(self.global_pool(features)))
        return embedding if pre_logits else self.fc(embedding)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits [B, num_classes] of images [B, C, H, W]."""
        return self.forward_head(self.forward_features(inputs))

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer, or an identity without classes."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, and the pooling if one is given; the new layer keeps the network's device and dtype.

        Raises:
            CoterieError: unknown pooling, or one whose output the head cannot take.
        """
        self._set_pool_and_classifier(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)
        self.initialise(self.fc)
        parameter = next(self.parameters())
        self.fc.to(device=parameter.device, dtype=parameter.dtype)
        for module in (self.global_pool, self.head_drop, self.fc):
            module.train(self.training)


def conv_norm_act(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Sequential:
    """A 3x3 convolution that keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias),
            norm=nn.BatchNorm2d(out_channels),
            act=nn.ReLU(inplace=True),
        )
    )


def cifar_configurations(names: Iterable[str], *, first_conv: str, pool_size: int = 8) -> Any:
    """timm configurations of networks for CIFAR without weights.

    Classes, mean and standard deviation are those of CIFAR-100 (OKDDip's values, for pixels in 0..1). The whole image is used (crop 1), since timm's default of
    0.875 would crop a 32x32 image.

    Args:
        names: registered names.
        first_conv: name of the first convolution, which timm adapts to other input channels.
        pool_size: height and width of the last feature map at 32x32.
    """
    configuration = {
        "url": "",
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "pool_size": (pool_size, pool_size),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5071, 0.4865, 0.4409),
        "std": (0.2673, 0.2564, 0.2762),
        "first_conv": first_conv,
        "classifier": "fc",
    }
    return generate_default_cfgs({name: dict(configuration) for name in names})
