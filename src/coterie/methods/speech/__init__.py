"""Methods whose student learns the hidden states of speech encoders, frame by frame."""
