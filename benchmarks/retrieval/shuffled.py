"""A control for EmbedDistill: embeddings are matched with the teacher's embeddings of *other* queries."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coterie.data.nested import Inputs
from coterie.losses.embedding import embedding_matching, one_hot_loss, score_distillation
from coterie.methods.progress import Progress
from coterie.methods.retrieval.dual_encoder import without_excluded
from coterie.methods.retrieval.embed_distill import EmbedDistill


class ShuffledMatching(EmbedDistill):
    """Labels and scores are unchanged; the matching term gets the teacher's query vectors shifted by one row of the batch. Only for documents encoded by the teacher."""

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        batch = self.encode(inputs, targets)
        assert batch.teacher_queries is not None
        scores = batch.scores
        moved = batch.teacher_queries.roll(1, 0)
        return {
            "label": self.onehot * one_hot_loss(without_excluded(scores, batch.excluded), self.temperature),
            "distillation": self.score * score_distillation(scores, batch.teacher_scores, self.temperature),
            "embedding": self.embedding * embedding_matching(batch.queries, moved, self.metric),
        }
