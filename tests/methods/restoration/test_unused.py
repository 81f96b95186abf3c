"""Which options have no effect beside others, as training shows: see ``misdeclared`` in ``tests/methods/conftest.py``.

Left out: weights that are downloads (LPIPS, DISTS's own), and an option of the perceptual term beside one of the adversary.
"""

from __future__ import annotations

import pytest

from coterie.methods.options import option_fields
from coterie.methods.restoration.dfosd import DFOSD
from coterie.methods.restoration.vsd import VSD

PERCEPTUAL = {"perceptual_weight", "edges", "edge_scale", "perceptual"}
BASE = {"dists_backbone": "random"}
ADVERSARY = option_fields(DFOSD).keys() - PERCEPTUAL - BASE.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "base", "elsewhere"),
    [
        pytest.param(DFOSD, {"perceptual": "none"}, {*PERCEPTUAL, "discriminator"}, id="adversary"),
        pytest.param(DFOSD, {"adversary": "none"}, ADVERSARY, id="perceptual"),
        pytest.param(VSD, {}, (), id="vsd"),
    ],
)
def test_training_shows_what_has_no_effect(kind, base, elsewhere, make_generator, batch, misdeclared):
    low, high = batch[0][:1, :, :4, :4], batch[1][:1, :, :16, :16]

    def build(options):
        return kind(make_generator(pretrained=True), **options), low, high

    assert "\n".join(misdeclared(kind, build, elsewhere, BASE | base, steps=((1, 39), (2, 59)))) == ""
