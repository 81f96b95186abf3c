"""Image data: cropping and degradation."""
