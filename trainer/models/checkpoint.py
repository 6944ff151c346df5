"""The files of a checkpoint, in a folder or on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError

CHOOSE = "choose another base"
MODEL_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's files.

    :param where: its folder or hub name.
    :param name: as the configuration names it, for errors.
    """

    where: str
    name: str

    def find(self, file: str) -> Path | None:
        """Find a file, in the folder or on the hub; None if there is none."""
        from transformers.utils import cached_file

        path = cached_file(self.where, file, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    def knows(self, *files: str) -> bool:
        """Whether it can be told that the files do not exist: not of a hub's model that is only partly cached."""
        from huggingface_hub import try_to_load_from_cache
        from transformers.utils import is_offline_mode

        if Path(self.where).is_dir() or not is_offline_mode():
            return True
        return all(try_to_load_from_cache(self.where, file) is not None for file in files)

    def read(self, file: str) -> Any:
        """Read a JSON file; None if there is none."""
        path = self.find(file)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def refuse(self, what: str, file: str, *, todo: str = CHOOSE) -> UsageError:
        """Make the error for a description that is not built.

        :param what: what was found.
        """
        return UsageError(f"{what} ({file})", where=self.name, todo=todo)


def quote(values: Iterable[str]) -> str:
    """Render names for an error."""
    return ", ".join(map(repr, values))
