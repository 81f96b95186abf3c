"""Comparisons of several methods over several seeds: resumable, on one machine or several, with statistics."""
