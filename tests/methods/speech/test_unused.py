"""Which options have no effect beside others, as training shows: see ``misdeclared`` in ``tests/methods/conftest.py``."""

from __future__ import annotations

import pytest
from torch import nn

from coterie.methods.speech.ekd import EnsembleKD


@pytest.mark.slow
def test_training_shows_what_has_no_effect(encoder, teachers, clips, misdeclared):
    taught = teachers(1, 2)
    for each in taught.each():
        for module in each.modules():
            if isinstance(module, nn.LayerNorm):  # states of untrained encoders are normalised already
                nn.init.uniform_(module.weight, 0.5, 2)

    def build(options):
        return EnsembleKD(encoder(seed=9, num_hidden_layers=1), teachers=taught, **options), clips, None

    # Left out: ``layers``, lists of numbers, which every aggregation reads.
    assert "\n".join(misdeclared(EnsembleKD, build, ["layers"])) == ""
