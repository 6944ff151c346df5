"""Files, locks, digests, SQLite and HTTP: all input and output of the process."""
