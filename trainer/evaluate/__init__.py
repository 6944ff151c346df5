"""Evaluation of bundles and runs: metrics with intervals over queries, comparisons, and the gate."""
