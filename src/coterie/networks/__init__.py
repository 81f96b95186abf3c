"""Networks: the papers' own, registered with timm, and what turns any network into a group of students.

Importing this package, or any module of it, makes ``timm.create_model`` know the papers' networks. Losses, methods and data
do not belong here.
"""

from __future__ import annotations

from coterie.catalogue import NETWORKS
from coterie.networks.papers.registration import register

register()

__all__ = ["NETWORKS", "register"]
