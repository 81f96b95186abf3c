"""One-step image restoration with diffusion networks of diffusers, and discriminators built from them."""
