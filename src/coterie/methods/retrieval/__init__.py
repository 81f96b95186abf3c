"""Methods that train dual encoders, whose scores are inner products of query and document vectors."""
