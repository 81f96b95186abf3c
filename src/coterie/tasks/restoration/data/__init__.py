"""Images, how they are cut, and how they are degraded."""
