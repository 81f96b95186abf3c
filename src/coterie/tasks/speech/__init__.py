"""Encoders of speech that learn from the hidden states of larger ones: what is theirs alone."""
