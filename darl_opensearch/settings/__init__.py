"""Settings, each declared once: TOML keys, options, variables, parameters and their docs are made from it."""

from __future__ import annotations

from darl_opensearch.settings.fields import Declared, Field, read_fields, setting
from darl_opensearch.settings.paths import FilePath, FolderPath, InputFile, InputFolder
from darl_opensearch.settings.tables import Settings, read_toml, read_value
from darl_opensearch.settings.values import convert, name_kind, nearest

__all__ = [
    "Declared",
    "Field",
    "InputFile",
    "InputFolder",
    "FilePath",
    "FolderPath",
    "Settings",
    "convert",
    "name_kind",
    "nearest",
    "read_fields",
    "read_toml",
    "read_value",
    "setting",
]
