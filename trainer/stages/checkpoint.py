"""Checkpoints of gradient descent, written atomically."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from darl_opensearch.errors import DarlError
from darl_opensearch.io.writing import new_folder, sibling

LAST, BEST, TENSORS, PROGRESS = "last.safetensors", "best.safetensors", "optimiser.safetensors", "progress.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state that resumes a descent.

    :param tensors: optimiser, random state, averages and state of the loss, by name.
    :param progress: JSON-ready: steps done, best dev RPS, history.
    """

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    progress: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint, best: Mapping[str, Tensor] | None) -> None:
    """Write a checkpoint in place of the previous one.

    :param best: weights with the best dev RPS so far; None: those of the previous checkpoint.
    :raises DarlError: if the disk is full; the previous checkpoint is kept.
    """
    try:
        with new_folder(folder, replace=True, fixed_name=True) as work:
            save_file(_apart(checkpoint.weights), work / LAST)
            if best is not None:
                save_file(_apart(best), work / BEST)
            else:
                _link(folder / BEST, work / BEST)
            save_file(_apart(checkpoint.tensors), work / TENSORS)
            (work / PROGRESS).write_text(json.dumps(checkpoint.progress), encoding="utf-8")
    except (OSError, SafetensorError) as err:
        if not _disk_full(err):
            raise
        previous = "the previous one is kept" if (folder / PROGRESS).is_file() else "there is no earlier one"
        step = checkpoint.progress["state"]["step"]
        raise DarlError(
            f"the disk is full: the checkpoint of step {step} cannot be written; {previous}",
            where=str(folder),
            todo="free disk space, then run the same command again to resume",
        ) from err


def read(folder: Path) -> Checkpoint | None:
    """Read the checkpoint in a folder, or None."""
    if not (folder / PROGRESS).is_file():
        return None
    progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return Checkpoint(load_file(folder / LAST), load_file(folder / TENSORS), progress)


def read_best(folder: Path) -> dict[str, Tensor]:
    """Read the weights with the best dev RPS."""
    return load_file(folder / BEST)


def recover(folder: Path) -> None:
    """Restore the checkpoint of a process that was killed between two renames, and delete its temporary folders."""
    previous = sorted(folder.parent.glob(f".{folder.name}.*.old"), key=lambda p: p.stat().st_mtime)
    work = sibling(folder)
    if not folder.exists():
        if (work / PROGRESS).is_file():  # written last: if it is complete, everything is
            try:
                json.loads((work / PROGRESS).read_text(encoding="utf-8"))
                work.rename(folder)
            except ValueError:
                pass  # killed while writing it
        if not folder.exists() and previous:
            previous.pop().rename(folder)
    for path in [*previous, work]:
        shutil.rmtree(path, ignore_errors=True)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU without shared memory, because safetensors refuses tied weights."""
    separate: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, tensor in tensors.items():
        on_cpu = tensor.detach().cpu().contiguous()
        separate[name] = on_cpu.clone() if on_cpu.data_ptr() in pointers else on_cpu
        pointers.add(on_cpu.data_ptr())
    return separate


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _disk_full(err: Exception) -> bool:
    if isinstance(err, OSError):
        return err.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(err) or f"os error {errno.EDQUOT}" in str(err)
