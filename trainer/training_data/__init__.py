"""What one run trains on: its files read and split, laid out as pairs, encoded, and drawn in batches."""
