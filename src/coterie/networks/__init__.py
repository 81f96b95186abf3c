"""Networks of the papers, registered with timm, and tools that turn any network into a group of students.

Importing this package, or any module of it, registers the papers' networks with ``timm.create_model``. Losses, methods and data do not belong here.
"""

from __future__ import annotations

from coterie.catalogue import NETWORKS
from coterie.networks.papers.registration import register

register()

__all__ = ["NETWORKS", "register"]
