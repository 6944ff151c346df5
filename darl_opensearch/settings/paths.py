"""What a path in a setting must point at; the command line checks it before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True)
class PathKind:
    """What may be at a path."""

    exists: bool = False
    file: bool = True
    folder: bool = True


InputFile = Annotated[Path, PathKind(exists=True, folder=False)]
InputFolder = Annotated[Path, PathKind(exists=True, file=False)]
FilePath = Annotated[Path, PathKind(folder=False)]
FolderPath = Annotated[Path, PathKind(file=False)]
