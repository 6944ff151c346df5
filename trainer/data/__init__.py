"""Data preparation: imports, splits, leakage checks, mined negatives and on-disk storage."""
