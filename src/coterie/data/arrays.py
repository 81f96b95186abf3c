"""Types of arrays that several tasks handle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # of an image [H, W, C], or of several [N, H, W, C]
Labels = NDArray[np.int64]  # [N]
