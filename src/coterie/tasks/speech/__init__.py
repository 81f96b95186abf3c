"""Task of speech encoders that learn from the hidden states of larger ones."""
