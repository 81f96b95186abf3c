"""Audio: where clips come from, how they are cut, distorted and put into batches."""
