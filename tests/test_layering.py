"""Who may import whom: the arrows of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "peft", "optimum", "onnx", "onnxruntime", "trainer"}
# A layer may import itself and those named for it, directly or not: cli -> server|cluster|monitor -> scoring|ood -> …
FOUNDATION = {
    "errors", "scores", "text", "bundle", "io", "bm25", "resources", "graph_contract", "spans",
    "fields", "stats", "html_page", "",
}  # fmt: skip
LAYERS = {
    "scoring": FOUNDATION,
    "ood": FOUNDATION | {"cluster"},  # the shipper and the store speak to the cluster
    "monitor": FOUNDATION | {"ood", "pool"},  # drift is measured on embedded pairs
    "cluster": FOUNDATION | {"scoring"},  # registration compares with the local bundle
    "server": FOUNDATION | {"scoring", "ood", "cluster"},  # a running scorer ships its own spool
    "node": FOUNDATION,
    "webhook": FOUNDATION,
    "cycle": FOUNDATION | {"ood", "cluster", "monitor", "webhook", "pool", "scoring"},  # the world around trainer.cycle
    "check": FOUNDATION | {"scoring"},
    "pool": FOUNDATION | {"scoring"},
}
TRAINER_MAY = FOUNDATION | {"ood", "scoring", "check", "pool"}  # never server, cluster, monitor, node, cli


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module imported, and whether that happens when the file is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]

    def visit(node: ast.AST, early: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, early
            elif isinstance(child, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                yield module, early
                for alias in child.names:  # `from darl_opensearch import bundle` imports a module
                    yield f"{module}.{alias.name}", early
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child, False)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from visit(ast.Module(child.orelse, []), early)
            else:
                yield from visit(child, early)

    yield from visit(tree, True)


def layer(module: str) -> str | None:
    """The part of ``darl_opensearch`` a module is of; "" for the package itself, None for other packages."""
    parts = module.split(".")
    if parts[0] != "darl_opensearch":
        return None
    return parts[1] if len(parts) > 1 else ""


KNOWN = {layer(name_of(path)) for path in modules("darl_opensearch")}


def layers_of(path: Path) -> set[str]:
    return {part for module, _ in imports(path) if (part := layer(module)) is not None and part in KNOWN}


@pytest.mark.parametrize("path", modules("darl_opensearch"), ids=name_of)
def test_nothing_heavy_is_loaded_early(path):
    early = {module.partition(".")[0] for module, early in imports(path) if early}
    assert not early & HEAVY


@pytest.mark.parametrize("path", modules("darl_opensearch"), ids=name_of)
def test_only_commands_reach_the_trainer(path):
    reached = {module for module, _ in imports(path) if module.split(".")[0] == "trainer"}
    if layer(name_of(path)) not in ("cli", "demo"):
        assert not reached
        assert "torch" not in {module.split(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", modules("darl_opensearch"), ids=name_of)
def test_arrows_point_one_way(path):
    mine = layer(name_of(path))
    if mine in LAYERS:
        assert layers_of(path) <= LAYERS[mine] | {mine}
    elif mine in FOUNDATION - {""}:
        assert layers_of(path) <= FOUNDATION
    if mine not in ("cli", "__main__"):
        assert "cli" not in layers_of(path) or mine == "demo"


@pytest.mark.parametrize("path", modules("trainer"), ids=name_of)
def test_the_trainer_uses_only_the_shared_parts(path):
    assert layers_of(path) <= TRAINER_MAY


def test_every_part_has_its_place():
    """A new part of the package needs a line above."""
    assert KNOWN - set(LAYERS) - FOUNDATION <= {"cli", "demo", "reranker", "search", "__main__"}
