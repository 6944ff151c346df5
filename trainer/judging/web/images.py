"""Images of items on the labelling page: which are shown, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import UsageError
from darl_opensearch.io.urls import holds_credentials, split_http, without_secrets
from trainer.judging.base import Task

# No SVG: opened by itself it would be a page of this server.
KINDS = {
    ".avif": "image/avif", ".gif": "image/gif", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png",
    ".webp": "image/webp",
}  # fmt: skip


@dataclass(frozen=True)
class Images:
    """Where images may come from; nowhere by default.

    :param folder: in which tasks name files.
    :param start: what the URLs in tasks begin with; ends in a slash.
    """

    folder: Path | None = None
    start: str = ""

    @classmethod
    def of(cls, place: str, base: Path) -> Images:
        """Read the setting.

        :param place: a folder, a URL, or ``""``.
        :param base: folder that a relative one is relative to.
        :raises UsageError: if it is neither.
        """
        if not place:
            return cls()
        if "://" in place:
            if split_http(place) is None or holds_credentials(place):
                raise UsageError(
                    f"{without_secrets(place)!r} is not a URL that images can begin with",
                    todo="write it like https://images.example.com/products/",
                )
            return cls(start=place if place.endswith("/") else f"{place}/")
        folder = base / place
        if not folder.is_dir():
            raise UsageError("not a folder of images", where=str(folder), todo="check --set web.images")
        return cls(folder=folder.resolve())

    @property
    def source(self) -> str:
        """What a Content-Security-Policy must let in; ``""``: nothing."""
        if self.folder is not None:
            return "'self'"
        parts = split_http(self.start) if self.start else None
        return f"{parts.scheme}://{parts.netloc}" if parts is not None else ""

    def file(self, image: str) -> Path | None:
        """Find a file in the folder; None if there is none of this name, or it is outside of the folder."""
        if self.folder is None or not image or "\0" in image or Path(image).suffix.lower() not in KINDS:
            return None
        path = (self.folder / image).resolve()
        return path if path.is_relative_to(self.folder) and path.is_file() else None

    def shows(self, task: Task) -> bool:
        """Whether a task's image is shown."""
        if self.start:
            return task.image.startswith(self.start)
        return self.file(task.image) is not None

    def describe(self, tasks: Sequence[Task]) -> list[str]:
        """Say how many images are shown, and what would tell gold from the other pairs; nothing where there are none.

        :param tasks: all pairs of the page, gold among them.
        """
        lines = []
        if named := [task for task in tasks if task.image]:
            shown = sum(map(self.shows, named))
            where = f"in {self.folder}" if self.folder else f"at {self.start}" if self.start else ""
            line = f"{shown:,} of {len(tasks):,} pairs are shown with an image"
            if len(named) > shown:
                line += f"; {len(named) - shown:,} name one that " + (f"is not {where}" if where else "is not shown")
            lines.append(line + ("" if where else ": pass --set web.images=FOLDER or its URL"))
        for name in ("image", "information_need"):
            having = {arm: any(getattr(task, name) for task in tasks if (task.arm == "gold") is arm)
                      for arm in {task.arm == "gold" for task in tasks}}  # fmt: skip
            if len(set(having.values())) > 1:
                with_it = "gold" if having[True] else "the other pairs"
                lines.append(f"warning: only {with_it} have the field {name!r}: people can tell gold apart by it")
        return lines
