"""Reads queries, documents and relevance from files, and makes batches of them."""
