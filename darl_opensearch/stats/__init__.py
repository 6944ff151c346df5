"""Statistics that all reports share: metrics, shares, resampling and tests; needs only numpy."""
