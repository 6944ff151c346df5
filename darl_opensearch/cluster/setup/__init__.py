"""What an operator sets up around the pipelines: retention, monitors, roles and dashboards."""
