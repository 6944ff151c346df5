"""ONNX Runtime: importing it late, choosing where it runs, and saying so when that is not what was asked."""

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

# Its kernel is slow on CPUs: .84 ms a call against .15 for a separate addition and normalisation, 6 to 25 %
# of a whole pass, with the same scores. Measured with ONNX Runtime 1.31.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


def load_runtime() -> ModuleType:
    """Import ONNX Runtime.

    :return: the module ``onnxruntime``.
    :raises MissingExtra: when neither of the two distributions is installed.
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
            todo="choose one: pip install 'darl-opensearch[cpu]' for any machine, or pip install "
            "'darl-opensearch[gpu]' for one with an NVIDIA GPU; not both, they overwrite each other",
        ) from err


def installed_runtimes() -> list[str]:
    """List the installed distributions that bring the module ``onnxruntime``.

    :return: of ``onnxruntime`` and ``onnxruntime-gpu`` those that are installed.
    """
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


@dataclass(frozen=True)
class Opened:
    """A session, and where it runs.

    :param session: the ``InferenceSession``.
    :param fallback: why that is not what was asked for, or None.
    """

    session: Any
    provider: Provider
    fallback: str | None


def open_session(model: Path, provider: Provider, *, require_provider: bool = False) -> Opened:
    """Open a graph.

    On the CPU a call runs on the thread that makes it, and on no other: callers bring as many threads as
    there are cores. That is as fast as ONNX Runtime's own thread pool, shares one copy of the weights,
    and lets a short request pass between the batches of a long one.

    :param require_provider: fail rather than run elsewhere.
    :raises BundleError: when the file is not a graph that this ONNX Runtime can run.
    :raises DarlError: when the provider was required and cannot be had.
    """
    runtime = load_runtime()
    fallback = None
    if provider == "cuda":
        session, why = _try_cuda(runtime, model)
        if session is not None:
            return Opened(session, "cuda", None)
        if require_provider:
            raise DarlError(
                f"CUDA was required and cannot be used: {why}",
                todo="see docs/serving.md, or use --provider cpu",
            )
        fallback = f"asked for CUDA, running on the CPU: {why}"
        log.warning("%s.", fallback)
    try:
        session = _session(runtime, model, ["CPUExecutionProvider"])
    except Exception as err:  # ONNX Runtime raises types of its own that share no base
        raise BundleError(
            f"ONNX Runtime {runtime.__version__} cannot open the graph ({_first_line(err)})",
            where=str(model),
            todo="run darl check on the bundle",
        ) from err
    return Opened(session, "cpu", fallback)


def _try_cuda(runtime: ModuleType, model: Path) -> tuple[Any, str]:
    """Open on the GPU; gives the session or None, and why not."""
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        return None, (
            f"this ONNX Runtime {runtime.__version__} is built for CPUs; "
            "uninstall onnxruntime and install 'darl-opensearch[gpu]'"
        )
    # TF32 would round the products to ten bits: scores would no longer be those of the CPU within 1e-4.
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    try:
        session = _session(runtime, model, providers)
    except Exception as err:  # noqa: BLE001  as above; a missing driver or library ends here
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
        enable_fallback=0,  # its own fallback prints to stdout and hides what happened
    )


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
