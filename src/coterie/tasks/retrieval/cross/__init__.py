"""Cross-encoders that teach: networks that read a query and a document together, and what they say of pairs."""
