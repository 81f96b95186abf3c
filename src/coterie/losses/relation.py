"""RKD's relations between the samples of a batch: distances of pairs and angles of triplets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.losses.precision import matmul


def pair_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances between all samples, divided by the mean over pairs of different samples: float32 [B, B].

    Args:
        embeddings: [B, d].
    """
    values = embeddings.float()
    squares = values.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * matmul(values, values.T)).clamp(min=1e-12)
    own = torch.eye(len(values), dtype=torch.bool, device=values.device)
    distances = squared.sqrt().masked_fill(own, 0.0)
    return distances / (distances.sum() / (~own).sum()).clamp(min=1e-12)


def triplet_angles(embeddings: Tensor) -> Tensor:
    """Cosines of the angles of all triplets, with the vertex on the first axis: float32 [B, B, B].

    Args:
        embeddings: [B, d].
    """
    values = embeddings.float()
    directions = F.normalize(values[None, :] - values[:, None], dim=2)
    return matmul(directions, directions.transpose(1, 2))


def relation_loss(student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float) -> Tensor:
    """Weighted sum of the smooth L1 losses of distances and of angles; 0-d.

    Args:
        student: embeddings [B, d].
        teacher: embeddings [B, d'], constants.
        distance_weight, angle_weight: weights of the two terms.

    Source: RKD (Park et al., CVPR 2019), sections 3.2.1 and 3.2.2; weights 1 and 2 in the paper's code for metric learning, 25 and 50 in mdistiller's for classification.
    """
    distance = F.smooth_l1_loss(pair_distances(student), pair_distances(teacher))
    angle = F.smooth_l1_loss(triplet_angles(student), triplet_angles(teacher))
    return distance_weight * distance + angle_weight * angle
