"""DASA: which of the traffic that the training set does not cover is worth judging next."""

from __future__ import annotations
