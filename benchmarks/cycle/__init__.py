"""Benchmarks of the cycle: what a label is worth, how selection scales, what a release costs."""
