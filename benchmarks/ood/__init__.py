"""What the OOD columns are worth."""
