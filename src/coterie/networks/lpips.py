"""LPIPS from torchmetrics, frozen: the distance of images by a network's features, with channel weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.networks.dists import vgg16_weights


class LPIPS(nn.Module):
    """Distance of images by VGG-16 (torchvision's weights, downloaded once); maps two batches [B, 3, H, W] in 0 to 1 to [B]. Gradients reach the images.

    Raises:
        CoterieError: the weights are not available.

    Source: Zhang et al., CVPR 2018, arXiv 1801.03924; torchmetrics contains the channel weights.
    """

    name = "lpips"

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        vgg16_weights()  # raises a one-line error if they are not available, before torchmetrics requests them
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).net
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Returns distances [B]."""
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = self.network(images.float(), others.float(), normalize=True)
        return found.flatten()
