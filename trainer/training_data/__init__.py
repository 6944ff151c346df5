"""Training data of a run: files read and split, arranged as pairs, encoded, and drawn in batches."""
