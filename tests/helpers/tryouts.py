"""A try-out page over files, without a command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.states import StateStore
from darl_opensearch.tryout.candidates import FileRetriever
from darl_opensearch.tryout.marked import MarkedJudgments
from darl_opensearch.tryout.session import TryOut
from darl_opensearch.tryout.versions import TriedVersion, name_versions


@contextmanager
def trying(
    bundles: Sequence[Bundle], files: Sequence[Path], *, size: int = 10, window: int = 50, judgments: Path | None = None
) -> Iterator[TryOut]:
    """Open bundles over files of items."""
    with ExitStack() as stack:
        store = stack.enter_context(StateStore(None))
        labels = name_versions(bundles)
        versions = [
            TriedVersion(bundle, label, n, store) for n, (bundle, label) in enumerate(zip(bundles, labels, strict=True))
        ]
        for version in versions:
            stack.callback(version.close)
        marked = None
        if judgments is not None:
            marked = stack.enter_context(MarkedJudgments.holding(judgments, bundles[0].card.scale.k))
        retriever = FileRetriever(bundles, files, Counter())
        yield TryOut(retriever, versions, size=size, window=window, marked=marked)
