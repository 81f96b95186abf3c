"""Methods that train dual encoders: vectors of queries and documents, whose inner products are scores."""
