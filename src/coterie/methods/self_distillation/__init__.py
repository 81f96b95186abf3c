"""A network that teaches itself."""
