"""Language modeling: documents, their tokens and the rows that causal language models are trained on. Nothing here is about other tasks."""
