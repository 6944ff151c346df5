"""What is set up in a cluster: connection, checks, models, pipelines and indexes."""
