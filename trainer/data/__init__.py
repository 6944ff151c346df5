"""Judgments, items and splits."""
