"""Language modeling: causal language models, what teaches them and what they are measured by. Nothing here is about other tasks."""
