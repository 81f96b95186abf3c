"""A student and its frozen teachers."""
