"""LPIPS by torchmetrics, frozen: the distance of images by a network's features, with weights for its channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.networks.dists import vgg16_weights


class LPIPS(nn.Module):
    """Distance of images [B, 3, H, W] in 0 to 1 twice to [B], by VGG-16 (torchvision's weights, downloaded once). Gradients reach the images.

    Raises:
        CoterieError: the weights cannot be had.

    Source: Zhang et al., CVPR 2018, arXiv 1801.03924; torchmetrics brings the channels' weights.
    """

    name = "lpips"

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        vgg16_weights()  # says in a line why they cannot be had, before torchmetrics asks for them
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).net
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """It stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances [B]."""
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = self.network(images.float(), others.float(), normalize=True)
        return found.flatten()
