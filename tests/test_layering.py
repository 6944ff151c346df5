"""Who may import whom: the arrows of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "peft", "optimum", "onnx", "onnxruntime", "trainer"}
# A part may import itself and those named for it; the command line may import all.
FOUNDATION = {
    "errors", "scores", "text", "bundle", "io", "records", "bm25", "resources", "graph_contract", "spans",
    "settings", "stats", "web", "version",
}  # fmt: skip
REQUESTS = FOUNDATION | {
    "connect",
    "cluster_errors",
    "config_files",
}  # how a cluster is reached, and the bodies that are sent to it
LAYERS = {
    "": FOUNDATION | {"scoring", "reranker", "search"},  # the public classes
    "connect": FOUNDATION | {"cluster_errors"},
    "cluster_errors": FOUNDATION,
    "config_files": FOUNDATION,
    "states": FOUNDATION,
    "scoring": FOUNDATION | {"states"},
    "ood": REQUESTS,
    "cluster": REQUESTS | {"scoring", "ood"},  # compares with the local bundle; checks and removes the OOD stream
    "reranker": FOUNDATION | {"connect", "scoring", "ood", "states"},
    "adapters": FOUNDATION | {"reranker"},
    "search": REQUESTS | {"ood", "cluster"},
    "monitor": FOUNDATION | {"scoring", "ood"},  # drift is measured on embedded pairs
    "server": REQUESTS | {"scoring", "ood", "states", "monitor"},  # a scorer ships and shows its own spool
    "node": FOUNDATION,
    "webhook": FOUNDATION,
    "check": FOUNDATION | {"scoring", "states"},
    "pool": FOUNDATION | {"scoring"},
    "tryout": REQUESTS | {"scoring", "states", "cluster", "search"},
    "warm": REQUESTS | {"scoring", "states", "cluster", "ood", "pool"},
}
TRAINER_MAY = FOUNDATION | {"ood", "scoring", "check", "states"}  # never server, cluster, monitor, node, cli
# The trainer's parts: each may import those after it.
TRAINER = [
    "report", "cycle", "evaluate", "export", "stages", "run_folder", "training_data", "distributed", "teachers", "ood",
    "models", "config", "losses", "dasa", "judging", "data", "registry",
]  # fmt: skip


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module imported, also for types or by name, and whether that happens when the file is loaded."""
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
                for alias in child.names:  # `from darl_opensearch import bundle` imports a module
                    yield (whole if (whole := f"{module}.{alias.name}") in MODULES else module), early
            elif isinstance(child, ast.Constant) and child.value in MODULES and "." in child.value:
                yield child.value, False  # load("trainer.cycle.run", "train"), or a table of such names
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("load", "import_module")):
                yield from ((arg.value, False) for arg in child.args[:1] if isinstance(arg, ast.Constant))
                yield from visit(child, early)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child, False)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from visit(ast.Module(child.body, []), False)
                yield from visit(ast.Module(child.orelse, []), early)
            else:
                yield from visit(child, early)

    yield from visit(tree, True)


MODULES = {name_of(path): path for package in ("darl_opensearch", "trainer") for path in modules(package)}


def circles(arrows: Mapping[str, Collection[str]]) -> list[str]:
    """One way round each circle that a walk along the arrows meets."""
    done: set[str] = set()
    ways: list[str] = []

    def walk(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            ways.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for target in sorted(arrows.get(name, ())):
                walk(target, (*way, name))
            done.add(name)

    for name in sorted(arrows):
        walk(name, ())
    return ways


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
    if layer(name_of(path)) != "cli":
        assert not reached
        assert "torch" not in {module.split(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", modules("darl_opensearch"), ids=name_of)
def test_arrows_point_one_way(path):
    mine = layer(name_of(path))
    if mine not in ("cli", "__main__"):
        assert layers_of(path) <= LAYERS.get(mine, FOUNDATION) | {mine}


@pytest.mark.parametrize("package", ["darl_opensearch", "trainer"])
def test_no_module_imports_itself_by_way_of_others(package):
    """Also late, for types, or by name."""
    arrows = {
        name: {module for module, _ in imports(path) if module in MODULES and module != name}
        for name, path in MODULES.items()
        if name.partition(".")[0] == package
    }
    assert not circles(arrows)


def test_no_part_imports_itself_by_way_of_others():
    arrows = {part: set() for part in KNOWN}
    for path in modules("darl_opensearch"):
        part = layer(name_of(path))
        arrows[part] |= layers_of(path) - {part}
    assert not circles(arrows)


def test_circles_are_found():
    assert circles({"a": "b", "b": "c", "c": "b", "d": "a"}) == ["b -> c -> b"]
    assert circles({"a": "bc", "b": "c", "c": ""}) == []


@pytest.mark.parametrize("path", modules("trainer"), ids=name_of)
def test_the_trainer_uses_only_the_shared_parts(path):
    assert layers_of(path) <= TRAINER_MAY


def test_the_trainer_imports_downwards():
    """Also late: no part imports one that stands before it in the list."""

    def place(module: str) -> int:
        return TRAINER.index(module.split(".")[1])

    inside = {name: path for name, path in MODULES.items() if name.startswith("trainer.")}
    assert {name.split(".")[1] for name in inside} == set(TRAINER)
    climbs = [
        f"{name} -> {module}"
        for name, path in inside.items()
        for module, _ in imports(path)
        if module in inside and place(module) < place(name)
    ]
    assert not climbs


def test_every_part_has_its_place():
    """A new part of the package needs a line above."""
    assert KNOWN - set(LAYERS) - FOUNDATION == {"cli", "__main__"}
