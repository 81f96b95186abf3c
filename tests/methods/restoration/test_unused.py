"""Which options have no effect beside others, as training shows: see ``misdeclared`` in ``tests/methods/conftest.py``."""

from __future__ import annotations

import pytest

from coterie.methods.restoration.dfosd import DFOSD
from coterie.methods.restoration.vsd import VSD

# Left out: DISTS's own weights and LPIPS's, which are downloads.
WHERE = {"discriminator": "names a folder of weights", "dists_backbone": "other networks are downloads"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DFOSD, VSD])
def test_training_shows_what_has_no_effect(kind, make_generator, batch, misdeclared):
    def build(options):
        return kind(make_generator(pretrained=True), **options), *batch

    assert "\n".join(misdeclared(kind, build, WHERE, dists_backbone="random")) == ""
