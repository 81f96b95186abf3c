"""Methods that train a one-step diffusion network for image restoration."""
