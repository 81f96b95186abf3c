"""The papers' own networks, registered with timm."""
