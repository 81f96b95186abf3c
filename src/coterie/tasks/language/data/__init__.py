"""Documents of a corpus, their tokens, and the rows and batches that language models are trained on. No network is known here."""
