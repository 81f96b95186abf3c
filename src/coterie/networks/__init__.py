"""Networks: the papers' own, registered with timm, and what turns any network into a group of students.

Importing this package imports no torch, so that the command line can list the networks at once. ``register()`` makes
``timm.create_model`` know them. Losses, methods and data do not belong here.
"""

from __future__ import annotations

from coterie.networks.catalogue import NETWORKS
from coterie.networks.registration import register

__all__ = ["NETWORKS", "register"]
