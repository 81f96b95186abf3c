"""Documents of a corpus, their tokens, and the rows and batches that language models are trained on. Independent of networks."""
