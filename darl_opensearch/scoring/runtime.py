"""ONNX Runtime: late import, and sessions on the requested provider or, with a warning, on the CPU."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from darl_opensearch.errors import BundleError, DarlError, MissingExtra, load

Provider = Literal["cpu", "cuda"]

log = logging.getLogger(__name__)

# The fused kernel is slow on CPUs: .84 ms per call against .15 for separate addition and normalisation, 6 to 25 % of
# a pass, with equal scores. Measured with ONNX Runtime 1.31.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


def load_runtime() -> ModuleType:
    """Import ``onnxruntime``.

    :raises MissingExtra: if neither distribution is installed.
    """
    installed = installed_runtimes()
    if len(installed) > 1:
        log.warning(
            "%s are both installed and overwrite each other's files. Uninstall both, then install one: "
            "pip install 'darl-opensearch[cpu]' or 'darl-opensearch[gpu]'.",
            " and ".join(installed),
        )
    try:
        return load("onnxruntime", "cpu")
    except MissingExtra as err:
        raise MissingExtra(
            "ONNX Runtime is not installed",
            todo="choose one: pip install 'darl-opensearch[cpu]', or 'darl-opensearch[gpu]' with an NVIDIA GPU; "
            "not both: they overwrite each other",
        ) from err


def installed_runtimes() -> list[str]:
    """List the installed distributions that provide the module ``onnxruntime``."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed.append(name)
    return installed


@dataclass(frozen=True)
class GraphSession:
    """An ONNX Runtime session and the provider it runs on.

    :param session: the ``InferenceSession``.
    :param fallback: why this is not the requested provider, or None.
    """

    session: Any
    provider: Provider
    fallback: str | None


def open_session(model: Path, provider: Provider, *, require_provider: bool = False) -> GraphSession:
    """Open a graph.

    On the CPU a call runs on the calling thread only; callers use one thread per core. That is as fast as ONNX
    Runtime's thread pool, shares one copy of the weights, and lets short requests run between a long one's batches.

    :param require_provider: fail instead of falling back to the CPU.
    :raises BundleError: if this ONNX Runtime cannot run the graph.
    :raises DarlError: if the provider is required but unavailable.
    """
    runtime = load_runtime()
    fallback = None
    if provider == "cuda":
        session, reason = _try_cuda(runtime, model)
        if session is not None:
            return GraphSession(session, "cuda", None)
        if require_provider:
            raise DarlError(
                f"CUDA is required but unavailable: {reason}", todo="see docs/serving.md, or use --provider cpu"
            )
        fallback = f"CUDA is unavailable, running on the CPU: {reason}"
        log.warning("%s.", fallback)
    try:
        session = _session(runtime, model, ["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime's exceptions share no base class
        raise BundleError(
            f"ONNX Runtime {runtime.__version__} cannot open the graph ({_first_line(err)})",
            where=str(model),
            todo="run darl check on the bundle",
        ) from err
    return GraphSession(session, "cpu", fallback)


def _try_cuda(runtime: ModuleType, model: Path) -> tuple[Any, str]:
    """Open a graph on the GPU; return the session, or None and the reason."""
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        return None, (
            f"this ONNX Runtime {runtime.__version__} is built for CPUs; "
            "uninstall onnxruntime and install 'darl-opensearch[gpu]'"
        )
    # TF32 rounds products to ten bits: scores would differ from the CPU's by more than 1e-4.
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    try:
        session = _session(runtime, model, providers)
    except Exception as err:  # noqa: BLE001  as above: a missing driver or library
        return None, _first_line(err)
    if "CUDAExecutionProvider" not in session.get_providers():
        return None, "the CUDA libraries or the GPU cannot be reached (ONNX Runtime's log has the reason)"
    return session, ""


def _session(runtime: ModuleType, model: Path, providers: list[Any]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(
        str(model),
        sess_options=options,
        providers=providers,
        disabled_optimizers=_SLOW_FUSIONS,
        enable_fallback=0,  # it would print to stdout and hide the reason
    )


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
