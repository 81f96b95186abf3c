"""Array types shared by several tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError

Pixels = NDArray[np.uint8]  # of an image [H, W, C], or of several [N, H, W, C]
Labels = NDArray[np.int64]  # [N]


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """``numpy.asarray``.

    Raises:
        CoterieError: nested sequences of unequal lengths.
    """
    try:
        return np.asarray(values)
    except ValueError:
        raise CoterieError(f"expected an array, got {type(values).__name__} of parts of unequal shapes") from None
