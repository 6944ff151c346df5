"""Where the files that ship with the package lie, installed or in a checkout."""

from __future__ import annotations

from pathlib import Path

from darl_opensearch.errors import DarlError


def plugin_config() -> Path:
    """Folder of the JSON that is applied to a cluster.

    :return: ``darl_opensearch/plugin_config`` of an installed package, ``plugin_config`` of a checkout.
    :raises DarlError: when neither is there.
    """
    return _shipped("plugin_config")


def insurance_sample() -> Path:
    """Folder of the insurance sample.

    :return: ``darl_opensearch/examples/insurance`` of an installed package, ``examples/insurance`` of a checkout.
    :raises DarlError: when neither is there.
    """
    return _shipped("examples/insurance")


def _shipped(name: str) -> Path:
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise DarlError(f"{name} is missing", where=str(here), todo="reinstall the package")
