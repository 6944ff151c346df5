"""Exporting a finished run as a bundle: graphs through Optimum, int8, calibration, card."""

from trainer.export.run import export_run

__all__ = ["export_run"]
