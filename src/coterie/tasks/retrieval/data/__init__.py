"""From files to queries, documents and which belong together; and from these to batches."""
