"""Comparisons: several methods over several seeds, resumable, on one machine or several, and what they say."""
