"""Diffusion networks of diffusers that restore an image in one step, and those that judge the result."""
