"""The statistics of every report: metrics, shares, resampling and tests, each once, on numpy alone."""
