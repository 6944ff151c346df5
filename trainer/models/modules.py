"""What a sentence-transformers checkpoint says beside its encoder: pooling, and the layers after it.

``modules.json`` lists the modules, each with a folder of its own. Up to version 5.3 they have the types
``sentence_transformers.models.…``, and ``1_Pooling/config.json`` has a flag for each mode; later ones name the module's
file and the mode. What is neither read nor without effect is refused, because the untrained model would otherwise rank
differently than its base.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file

from darl_opensearch.errors import InputError
from trainer.models.checkpoint import CHOOSE, MODEL_CONFIG, CheckpointFiles, quote
from trainer.models.pooling import ACTIVATIONS, CLS, MEAN, POOLING, Projection

_FLAGS = {
    "pooling_mode_cls_token": CLS, "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
# Of the Transformer module; the first that exists is read.
ENCODER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
EMBEDDING, SCORES = "sentence_embedding", "scores"


@dataclass(frozen=True)
class Modules:
    """The modules of a checkpoint.

    :param described: whether the checkpoint describes them; if not, these are defaults.
    :param folder: the encoder's folder in the checkpoint, ``""`` for the checkpoint's own.
    :param lower_case: whether texts are lower-cased before they are tokenised.
    :param pools: whether there is a Pooling module.
    :param width: size of the states that it pools, if it is described.
    :param pooling: ``mean`` or ``cls``.
    :param include_prompt: whether a mean is over the prompt too.
    :param projection: the layers after the pooling.
    :param scores: whether those compute a relevance score, not an embedding.
    :param normalised: whether the embedding has unit length.
    """

    described: bool = False
    folder: str = ""
    lower_case: bool = False
    pools: bool = False
    width: int | None = None
    pooling: str = MEAN
    include_prompt: bool = True
    projection: Projection = field(default_factory=Projection)
    scores: bool = False
    normalised: bool = False


def read_modules(checkpoint: CheckpointFiles) -> Modules:
    """Read the modules.

    :raises UsageError: for a module, a mode or a key that is not built, by name.
    :raises InputError: if a module's files are missing or contradict each other.
    """
    listed = checkpoint.read("modules.json")
    if listed is None:
        settings = checkpoint.read("1_Pooling/config.json")
        if settings is None:
            return Modules()
        return Modules(described=True, **_read_pooling(checkpoint, "1_Pooling/config.json", settings))
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and entry.get("type") for entry in listed):
        raise checkpoint.refuse("it is not a list of modules with a type each", "modules.json")
    kinds = [_read_kind(checkpoint, entry["type"]) for entry in listed]
    folders = [str(entry.get("path", "")) for entry in listed]
    if kinds[:1] != ["Transformer"] or "Transformer" in kinds[1:] or "Pooling" in kinds[2:]:
        found = ", ".join(kinds) or "no modules"
        raise checkpoint.refuse(f"{found} is not a Transformer, then a Pooling, then other layers", "modules.json")
    lower_case, classifies = _read_encoder_config(checkpoint, folders[0])
    if len(kinds) == 1:
        return Modules(described=True, folder=folders[0], lower_case=lower_case)
    if kinds[1] != "Pooling" or classifies:
        head = "scores" if classifies else "token embeddings"
        raise checkpoint.refuse(f"a {kinds[1]} after a Transformer that gives {head} is not built", "modules.json")
    file = _join(folders[1], "config.json")
    settings = checkpoint.read(file)
    if settings is None:
        raise InputError(f"{file} is missing", where=checkpoint.name, todo="copy the whole checkpoint")
    projection, scores = _read_projection(checkpoint, kinds[2:], folders[2:])
    return Modules(
        described=True, folder=folders[0], lower_case=lower_case, projection=projection, scores=scores,
        normalised=kinds[-1] == "Normalize", **_read_pooling(checkpoint, file, settings),
    )  # fmt: skip


def check_widths(modules: Modules, width: int, name: str) -> None:
    """Refuse layers that do not fit together.

    :param width: size of the encoder's states.
    :param name: of the checkpoint, for errors.
    """
    for step in ({"type": "Pooling", "dimension": modules.width or width}, *modules.projection.steps):
        reads = step.get("in_features", step.get("dimension", width))
        if reads != width:
            raise InputError(
                f"{step['type']} reads {reads} features, and what is before it has {width}", where=name,
                todo="check the config.json of the modules in modules.json",
            )  # fmt: skip
        width = int(step.get("out_features", width))


def _read_kind(checkpoint: CheckpointFiles, path: str) -> str:
    """Read a module's type in either spelling."""
    package, _, kind = str(path).rpartition(".")
    known = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
    if kind not in known or package.partition(".")[0] != "sentence_transformers":
        raise checkpoint.refuse(
            f"module {path!r} is not built", "modules.json", todo=f"choose a base that has only {', '.join(known)}"
        )
    return kind


def _read_encoder_config(checkpoint: CheckpointFiles, folder: str) -> tuple[bool, bool]:
    """Read whether texts are lower-cased, and whether the encoder is a classifier."""
    names = [_join(folder, name) for name in ENCODER_CONFIGS]
    file = next((name for name in names if checkpoint.find(name)), names[0])
    settings = dict(checkpoint.read(file) or {})
    task = settings.pop("transformer_task", None) or "feature-extraction"
    if task not in ("feature-extraction", "sequence-classification"):
        raise checkpoint.refuse(f"transformer_task {task!r} is not built", file)
    classifies = task == "sequence-classification"
    output = settings.pop("module_output_name", None)
    if output not in (None, SCORES if classifies else "token_embeddings"):
        raise checkpoint.refuse(f"module_output_name {output!r} is not built", file)
    text = (settings.pop("modality_config", None) or {}).get("text")
    expected = {"method": "forward", "method_output_name": "logits" if classifies else "last_hidden_state"}
    if text is not None and text != expected:
        raise checkpoint.refuse(f"modality_config of text {json.dumps(text)} is not built", file)
    lower_case = bool(settings.pop("do_lower_case", False))
    settings.pop("max_seq_length", None)  # the caps replace it
    settings.pop("unpad_inputs", None)  # speed only
    _refuse_keys(checkpoint, file, settings)
    return lower_case, classifies


def _read_pooling(checkpoint: CheckpointFiles, file: str, settings: Any) -> dict[str, Any]:
    """Read the mode in either spelling, and whether a mean is over the prompt too: fields of :class:`Modules`."""
    if not isinstance(settings, Mapping):
        raise checkpoint.refuse("it is not an object", file)
    settings = dict(settings)
    flags = [mode for key, mode in _FLAGS.items() if settings.pop(key, False)]
    named = settings.pop("pooling_mode", None)
    modes = flags if named is None else named if isinstance(named, list) else [str(named)]
    if named is not None and flags and set(flags) != set(modes):
        raise checkpoint.refuse(
            f"pooling_mode is {quote(modes)}, and the flags say {quote(flags)}", file, todo="remove one of them"
        )
    include_prompt = bool(settings.pop("include_prompt", True))
    sizes = [settings.pop(key, None) for key in ("embedding_dimension", "word_embedding_dimension")]
    _refuse_keys(checkpoint, file, settings)
    if not modes:
        raise checkpoint.refuse("it names no pooling mode", file, todo='set "pooling_mode", for example to "mean"')
    if len(modes) > 1:
        raise checkpoint.refuse(f"pooling modes {quote(modes)} together are not built", file)
    if modes[0] not in POOLING:
        todo = f"choose a base that pools by {' or '.join(POOLING)}"
        raise checkpoint.refuse(f"pooling mode {modes[0]!r} is not built", file, todo=todo)
    width = next((size for size in sizes if size), None)
    return {"pools": True, "width": width, "pooling": modes[0], "include_prompt": include_prompt}


def _read_projection(
    checkpoint: CheckpointFiles, kinds: Sequence[str], folders: Sequence[str]
) -> tuple[Projection, bool]:
    """Read the layers after the pooling with their weights, and whether they compute a score."""
    kinds, folders = list(kinds), list(folders)
    while kinds and kinds[-1] == "Normalize":  # a cosine normalises anyway
        kinds.pop()
        folders.pop()
    steps: list[dict[str, Any]] = []
    weights: dict[str, torch.Tensor] = {}
    output = EMBEDDING
    for n, (kind, folder) in enumerate(zip(kinds, folders, strict=True)):
        if output == SCORES:
            raise checkpoint.refuse(f"a {kind} after the module that computes the scores is not built", "modules.json")
        if kind == "Normalize":
            steps.append({"type": kind})
            continue
        step, output = (_read_dense if kind == "Dense" else _read_layer_norm)(checkpoint, folder)
        read, inner, own = _read_weights(checkpoint, folder), ("linear", "0.") if kind == "Dense" else ("norm", ""), {}
        for key in ("weight", "bias") if step.get("bias", True) else ("weight",):
            if (tensor := read.pop(f"{inner[0]}.{key}", None)) is None:
                raise InputError(f"{folder} has no weight {inner[0]}.{key}", where=checkpoint.name, todo=CHOOSE)
            own[f"{n}.{inner[1]}{key}"] = tensor.float()
        if read:
            raise checkpoint.refuse(f"weights {', '.join(sorted(read))} are not known", folder)
        weights |= own
        steps.append(step)
    projection = Projection(steps)
    try:
        projection.load_state_dict(weights)
    except RuntimeError as err:
        raise InputError(
            f"the weights of {', '.join(folders)} do not have the sizes of their config.json", where=checkpoint.name,
            todo=CHOOSE,
        ) from err  # fmt: skip
    return projection.eval(), output == SCORES


def _read_dense(checkpoint: CheckpointFiles, folder: str) -> tuple[dict[str, Any], str]:
    file = _join(folder, "config.json")
    settings = dict(checkpoint.read(file) or {})
    named = str(settings.pop("activation_function", None))
    activation = named.rpartition(".")[2]
    if activation not in ACTIVATIONS or not named.startswith("torch.nn."):
        raise checkpoint.refuse(f"activation_function {named!r} is not built", file)
    source = settings.pop("module_input_name", None) or EMBEDDING
    output = settings.pop("module_output_name", None) or source
    if source != EMBEDDING or output not in (EMBEDDING, SCORES):
        raise checkpoint.refuse(f"a Dense from {source!r} to {output!r} is not built", file)
    bias = bool(settings.pop("bias", True))
    sizes = {key: _read_size(checkpoint, file, settings, key) for key in ("in_features", "out_features")}
    _refuse_keys(checkpoint, file, settings)
    return {"type": "Dense", **sizes, "bias": bias, "activation": activation}, output


def _read_layer_norm(checkpoint: CheckpointFiles, folder: str) -> tuple[dict[str, Any], str]:
    file = _join(folder, "config.json")
    settings = dict(checkpoint.read(file) or {})
    dimension = _read_size(checkpoint, file, settings, "dimension")
    _refuse_keys(checkpoint, file, settings)
    return {"type": "LayerNorm", "dimension": dimension}, EMBEDDING


def _read_size(checkpoint: CheckpointFiles, file: str, settings: dict[str, Any], key: str) -> int:
    value = settings.pop(key, None)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{key} is {value!r} ({file})", where=checkpoint.name, todo="copy the whole checkpoint")
    return value


def _read_weights(checkpoint: CheckpointFiles, folder: str) -> dict[str, torch.Tensor]:
    if path := checkpoint.find(_join(folder, "model.safetensors")):
        return load_file(path)
    if path := checkpoint.find(_join(folder, "pytorch_model.bin")):
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, pickle.UnpicklingError) as err:
            raise InputError(f"{path} cannot be read", where=checkpoint.name, todo="copy the whole checkpoint") from err
    raise InputError(f"{folder} has no weights", where=checkpoint.name, todo="copy the whole checkpoint")


def _refuse_keys(checkpoint: CheckpointFiles, file: str, settings: Mapping[str, Any]) -> None:
    """Refuse keys that are not known, unless they are off or empty."""
    if unknown := [key for key, value in settings.items() if value not in (None, False, "", [], {})]:
        raise checkpoint.refuse(f"{', '.join(unknown)} is not built", file)


def check_similarity(checkpoint: CheckpointFiles, *, normalised: bool) -> None:
    """Refuse a bi-encoder whose similarity is not the cosine.

    :param normalised: whether its embeddings have unit length, so that others order as the cosine does.
    """
    name = (checkpoint.read(MODEL_CONFIG) or {}).get("similarity_fn_name")
    if name not in (None, "cosine") and not (normalised and name in ("dot", "euclidean")):
        raise checkpoint.refuse(f"similarity {name!r} is not built", MODEL_CONFIG, todo="choose a base for the cosine")


def _join(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file
