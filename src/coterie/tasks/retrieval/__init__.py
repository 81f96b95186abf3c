"""Retrieval: dual encoders that find the documents of a query."""
