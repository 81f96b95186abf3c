"""Methods whose student learns hidden states of encoders of speech, frame by frame."""
