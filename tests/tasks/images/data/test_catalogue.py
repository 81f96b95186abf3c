from __future__ import annotations

import subprocess
import sys

from coterie.tasks.images.data.catalogue import DATA
from coterie.tasks.images.data.statistics import KNOWN


def test_every_known_name_is_listed():
    assert {"digits", *KNOWN} == {name for name in DATA if name.islower()}
    assert all("\n" not in line for line in DATA.values())


def test_listing_imports_no_torch():
    code = "import sys; from coterie.tasks.images.data.catalogue import DATA; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
