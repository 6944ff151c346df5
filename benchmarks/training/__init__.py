"""How fast, and in how much memory, models are trained."""
