"""What several tests make or run, by what it makes."""
