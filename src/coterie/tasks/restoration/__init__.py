"""Restoration: small or spoilt images to large, sharp ones, in one step of a diffusion network."""
