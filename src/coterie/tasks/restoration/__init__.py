"""Restoration: turns small or degraded images into large, sharp ones, in one step of a diffusion network."""
