"""A bundle as teacher: any exported model, including language models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from darl_opensearch.bundle import CARD, Bundle
from darl_opensearch.io.digest import digest_file
from darl_opensearch.records.items import Item, read_items
from darl_opensearch.scoring import Scorer
from darl_opensearch.settings import Field
from trainer.teachers.base import TEACHERS, TeacherFiles, TeacherRequest


@TEACHERS.register("bundle", cite="Hinton et al. 2015, arXiv:1503.02531")
class BundleTeacher:
    """Scores of a bundle's ONNX graph, with items rendered by its own template.

    :param target: folder, relative to the configuration's.
    :raises BundleError: if the folder is not a bundle.
    """

    workers = 1  # the scorer has threads of its own

    def __init__(
        self,
        target: str,
        files: TeacherFiles,
        *,
        int8: Annotated[bool, Field("use the quantised graph")] = False,
        provider: Annotated[Literal["cpu", "cuda"], Field("where the graph runs")] = "cpu",
    ) -> None:
        self.bundle = Bundle.open(files.base / target)
        self.scorer = Scorer.open(self.bundle, int8=int8, provider=provider)
        self.files, self.int8 = files, int8

    def identity(self) -> str:
        """Return the digest of the card, which lists those of all other files, and the graph's precision."""
        return f"{digest_file(self.bundle.path / CARD)} {'int8' if self.int8 else 'fp32'}"

    def score(self, request: TeacherRequest) -> list[float | None]:
        """Score the items of one query.

        :return: ``n`` scores in [0, 1].
        """
        texts = [self._items[item_id].text for item_id in request.item_ids]
        return [float(value) for value in self.scorer.score(request.query, texts).score]

    def close(self) -> None:
        """Stop the scorer's threads."""
        self.scorer.close()

    @cached_property
    def _items(self) -> Mapping[str, Item]:
        return read_items(self.files.items, self.bundle.renderer)
