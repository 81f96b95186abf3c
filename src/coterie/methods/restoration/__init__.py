"""Methods that train one step of a diffusion network to restore images."""
