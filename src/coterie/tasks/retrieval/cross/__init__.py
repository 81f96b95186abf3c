"""Cross-encoder teachers: networks that read a query and a document together, and their scores of pairs."""
