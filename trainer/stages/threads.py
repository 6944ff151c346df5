"""How many threads small problems get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Fit a few thousand numbers on one thread.

    A head has a dozen weights: handing its products to a thread pool costs many times what they do, and
    most on a machine that is busy with something else.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
