"""Metrics over queries and pairs, and intervals that respect queries."""
