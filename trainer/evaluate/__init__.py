"""What bundles and runs are worth: figures over queries with intervals, comparisons, and the gate."""
