"""Files, locks, digests, SQLite and HTTP: everything that leaves the process goes through here."""
