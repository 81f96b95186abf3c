"""Text classification by networks of transformers."""
