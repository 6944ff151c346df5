"""Writes the generated parts of these pages from the code itself; ``make docs`` runs it, ``make check`` compares.

Each function returns Markdown. cog puts it between the marks of a page.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from darl_opensearch.settings import Declared, name_kind, read_fields

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
GATES = (
    "check", "export", "publish", "leakage", "gate", "judge", "release", "rollback", "cycle",
    "monitor --fail-on-drift",
)  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n\n"


def commands() -> dict[str, click.Command]:
    """Every command by its full name, groups opened: ``node up`` after ``node``."""
    from darl_opensearch.cli import COMMANDS

    found: dict[str, click.Command] = {}
    for name, (module, _) in COMMANDS.items():
        command = importlib.import_module(f"darl_opensearch.cli.{module}").cli
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": command.commands[sub] for sub in sorted(command.commands)}
    return found


def command_list() -> str:
    """What each command is for."""
    from darl_opensearch.cli import COMMANDS

    rows = [(f"[`darl {name}`](#darl-{name})", text) for name, (_, text) in COMMANDS.items()]
    return table(["command", "what it does"], rows)


def command_help() -> str:
    """The help of every command, as it prints it."""
    parts = []
    for name, command in commands().items():
        context = click.Context(
            command, info_name=f"darl {name}", terminal_width=WIDTH, max_content_width=WIDTH,
            help_option_names=["-h", "--help"],
        )  # fmt: skip
        parts.append(f"## darl {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n" + "\n".join(parts) + "\n"


def exit_codes() -> str:
    """What a command's exit code says."""
    from darl_opensearch import errors

    rows = [
        (errors.EXIT_DONE, "done"),
        (errors.EXIT_FAILED, "failed; one line on stderr says what, on which input, and what to do"),
        (errors.EXIT_USAGE, "wrong usage: an unknown option, key or value"),
        (errors.EXIT_REFUSED, f"refused by a check or gate: {', '.join(f'`darl {name}`' for name in GATES)}"),
        (130, "interrupted by Ctrl-C; 129 by SIGHUP, 143 by SIGTERM"),
    ]
    return table(["code", "meaning"], rows)


def configuration() -> str:
    """Every key of ``darl.toml``."""
    from trainer import config

    return _tables(config.Config)


def cycle_configuration() -> str:
    """Every key of ``cycle.toml``, and of ``[drift]``, which the monitor reads."""
    from darl_opensearch.monitor.drift import DriftConfig
    from trainer.cycle.config import CycleConfig

    about = "Options of the [drift tests](monitoring.md)."
    more = f"### `[drift]`\n\n{about}\n{keys(DriftConfig)}"
    return _tables(CycleConfig, level="###", apart=("drift",)) + more


def cycle_steps() -> str:
    """The steps of a cycle."""
    from trainer.cycle.steps import STEPS

    return table(["step", "what it does"], [(f"`{step.name}`", step.help) for step in STEPS])


def keys(cls: type[Any], *, only: Callable[[Declared], bool] = lambda declared: not declared.is_table) -> str:
    """Every key of a table."""
    return table(["key", "type", "default", "meaning"], [_key(one) for one in read_fields(cls).values() if only(one)])


def _tables(whole: type[Any], *, level: str = "##", apart: Sequence[str] = ()) -> str:
    """Every key of a configuration, table by table."""
    parts = []
    for name, declared in read_fields(whole).items():
        if declared.is_table:
            about = (declared.kind.__doc__ or "").partition("``: ")[2].strip().rstrip(".")
            parts.append(f"{level} `[{name}]`\n\n{about[:1].upper()}{about[1:]}.\n{keys(declared.kind)}")
    first = keys(whole, only=lambda declared: not declared.is_table and declared.name not in apart)
    return f"\n{level} Before the first table\n{first}{''.join(parts)}"


def _key(declared: Declared) -> tuple[str, str, str, str]:
    default = "required" if declared.default is dataclasses.MISSING else f"`{_toml(declared.default)}`"
    return f"`{declared.name}`", _kind(declared), default, declared.field.help


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def _kind(declared: Declared) -> str:
    kind = " or ".join(json.dumps(value) for value in declared.choices) or name_kind(declared)
    bounds = f", {declared.field.bounds}" if declared.field.bounds else ""
    return f"list of {kind}{bounds}" if declared.many else f"{kind}{bounds}"


def registry(which: str) -> str:
    """A registry's entries, by its name in :func:`registries`."""
    entries = registries()[which]
    rows = []
    for name in entries:
        entry = entries[name]
        params = [
            f"`{key}` = `{_toml(one.default)}`: {one.field.help}" + (f" ({_range(one)})" if _range(one) else "")
            for key, one in entry.params.items()
        ]
        source = re.sub(r"https://[^\s;]+", r"<\g<0>>", entry.cite)
        rows.append((f"`{name}`", entry.summary.rstrip("."), source, "<br>".join(params) or "none"))
    return table(["name", "what it is", "source", "parameters"], rows)


def registries() -> dict[str, Any]:
    """Every registry there is, by the title of its table."""
    from trainer.dasa import SELECTORS
    from trainer.data.importers import IMPORTERS
    from trainer.judging import JUDGES
    from trainer.losses import DISTILLATION_LOSSES, GRADE_LOSSES, RANK_LOSSES
    from trainer.models import BACKBONES
    from trainer.ood import DETECTORS
    from trainer.stages import STAGES
    from trainer.teachers import TEACHERS

    return {
        "grade losses": GRADE_LOSSES,
        "rank losses": RANK_LOSSES,
        "distillation losses": DISTILLATION_LOSSES,
        "backbones": BACKBONES,
        "detectors": DETECTORS,
        "stages": STAGES,
        "teachers": TEACHERS,
        "formats": IMPORTERS,
        "selectors": SELECTORS,
        "judges": JUDGES,
    }


def import_files() -> str:
    """The files of each format that ``darl import`` reads, in order."""
    rows = []
    for name, entry in ((name, registries()["formats"][name]) for name in registries()["formats"]):
        for source in entry.make.sources:
            fields = ", ".join(f"`{field}`" for field in source.needs)
            also = ", ".join(f"`{field}`" for field in source.takes)
            text = "; also ".join(part for part in (fields, also) if part)
            usual = ", ".join(f"`{usual}.*`" for usual in source.usual)
            called = f"`{source.name}`" if source.required else f"`{source.name}` (optional)"
            rows.append((f"`{name}`", called, source.help, text, usual))
    return table(["format", "file", "what is in it", "fields that it needs; also reads", "found in a folder as"], rows)


def dropped() -> str:
    """What becomes of the log's queries, in order."""
    from trainer.dasa.report import DROPPED

    return table(["in `report.json`", "queries that are dropped"], [(f"`{n}`", text) for n, text in DROPPED.items()])


def selection_settings() -> str:
    """Every key of ``[select]``, as an option of ``darl select``."""
    from trainer.dasa.config import SelectConfig

    rows = []
    for declared in read_fields(SelectConfig).values():
        flag = declared.field.flag or "--" + declared.name.replace("_", "-")
        rows.append((f"`{flag}`", *_key(declared)))
    return table(["option", "key", "type", "default", "meaning"], rows)


def leaks() -> str:
    """The kinds of leaks that are looked for."""
    from trainer.data.leakage import KINDS

    return table(["kind", "the other part holds"], [(f"`{kind}`", text) for kind, text in KINDS.items()])


def _range(declared: Declared) -> str:
    return f"one of {', '.join(map(str, declared.choices))}" if declared.choices else declared.field.bounds


def python_api() -> str:
    """The public classes of ``darl_opensearch``, from their signatures and docstrings."""
    import darl_opensearch

    names = list(darl_opensearch._MODULES)
    return "\n" + "".join(_class_reference(name, getattr(darl_opensearch, name)) for name in names)


def _class_reference(name: str, cls: type[Any]) -> str:
    tree = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0])
    fields = _params(cls)
    signature, attributes, methods = "", [], []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            field = ast.unparse(node.target)
            attributes.append((f"`{field}`", f"`{ast.unparse(node.annotation)}`", fields.get(field, "")))
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__" and not hasattr(cls, "open"):
            signature = _signature(name, node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            text = _prose(ast.get_docstring(node) or "")
            if any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
                kind = ast.unparse(typing.cast(ast.expr, node.returns))
                attributes.append((f"`{node.name}`", f"`{kind}`", text.strip().rstrip(".")))
            else:
                methods.append(f"### {name}.{node.name}\n\n{_signature(node.name, node)}{text}")
    about = _prose(inspect.getdoc(cls) or "", params=bool(signature))
    rows = table(["attribute", "type", "meaning"], attributes)[1:] if attributes else ""
    return f"## {name}\n\n{signature}{about}{rows}" + "".join(methods)


def _signature(name: str, node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix("cls").removeprefix(", ")
    arguments = re.sub(r"(?<=[\w\]])=", " = ", arguments).replace("]]]", "]] ]")  # three would end cog's output
    returns = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    line = f"{name}({arguments}){returns}"
    if len(line) > WIDTH:
        line = f"{name}(\n    " + ",\n    ".join(re.split(r", (?=\*?\w+:|\*,)", arguments)) + f",\n){returns}"
    return f"```python\n{line}\n```\n\n"


def _prose(docstring: str, *, params: bool = True) -> str:
    """A docstring as Markdown: its text, then its fields as a list."""
    text, *fields = re.split(r"\n\s*:(?=(?:param|return|raises)\b)", docstring)
    lines = []
    for field in fields:
        kind, _, value = field.partition(":")
        kind, _, name = kind.partition(" ")
        if params or kind != "param":
            label = {"param": f"`{name}`", "return": "returns", "raises": f"raises `{name}`"}[kind]
            lines.append(f"- {label}: {_plain(' '.join(value.split()))}")
    return f"{_plain(text.strip())}.\n\n" + "".join(f"{line}\n" for line in lines) + "\n" * bool(lines)


def server_settings() -> str:
    """Every setting of ``darl serve``."""
    from darl_opensearch.server.config import ServerConfig
    from darl_opensearch.settings.options import secret_file

    rows = []
    fields = read_fields(ServerConfig)
    for declared in fields.values():
        text, _, stated = declared.field.help.partition("  [default: ")
        default = stated.rstrip("]") or ("" if declared.default in (None, False) else f"`{declared.default}`")
        flag = "--" + declared.name.replace("_", "-")
        variables = " ".join(f"`{name}`" for name in declared.variables)
        rows.append((f"`{flag}`" if not declared.field.secret else "", variables, default, text))
        if (by_file := secret_file(declared)) and by_file.name not in fields:
            variables = " ".join(f"`{name}`" for name in by_file.variables)
            rows.append((f"`{flag}-file`", variables, "", by_file.field.help))
    return table(["option", "variables", "default", "meaning"], rows)


def metrics() -> str:
    """What ``GET /metrics`` tells Prometheus, but its process collector's standard names."""
    from darl_opensearch.server.metrics import Metrics

    told = Metrics()
    told.watch_ood_log(lambda: {"queued": 0})
    told.watch_states(lambda: {"hits": 0})
    rows = []
    for family in told.registry.collect():
        if not family.name.startswith("darl_"):
            continue
        name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
        rows.append((f"`{name}`", family.type, family.documentation))
    return table(["name", "type", "meaning"], sorted(rows))


def error_types() -> str:
    """Statuses and types of failed requests."""
    from darl_opensearch.server.errors import TYPES

    return table(["status", "`error.type`"], [(status, f"`{name}`") for status, name in TYPES.items()])


def ood_record() -> str:
    """The fields of a record, from the mapping that is applied and the record's own documentation."""
    from darl_opensearch.ood import record

    template = json.loads((ROOT / "plugin_config/ood_index_template.json").read_text(encoding="utf-8"))
    fields = template["template"]["mappings"]["properties"]
    both = _params(record.LogPolicy) | _params(record.RankedRequest)
    both |= {
        "record_id": "the same for every attempt to log it; also the document's `_id`",
        "kind": "`request` or `pair`",
    }
    both["@timestamp"] = both["timestamp"]
    own = {cls.kind: _params(cls) for cls in (record.RequestRecord, record.PairRecord)}
    rows = []
    for name, mapping in fields.items():
        kind, text = next(((kind, told[name]) for kind, told in own.items() if name in told), ("both", ""))
        rows.append((f"`{name}`", f"`{mapping['type']}`", kind, text or both[name]))
    return table(["field", "type", "record", "meaning"], rows)


def search_features() -> str:
    """What other features of a search do through a pipeline, as seen on the node by the tests."""
    from tests.helpers.search_features import FEATURES

    rows = [(one.what, ("yes" if one.reranked else "**no**") if one.hits else "", one.seen) for one in FEATURES]
    return table(["a search with", "reranked", "what is seen"], rows)


def raw_queries() -> str:
    """Which queries of any client are reranked through which pipeline, as seen on the node by the tests."""
    from tests.helpers.raw_queries import RAW_QUERIES

    pipelines = ("-local", "-local-plain", "-connector", "-connector-plain")
    rows = [(one.what, *("**no**" if name in one.not_reranked else "yes" for name in pipelines)) for one in RAW_QUERIES]
    head = ["a query", "local, `NAME`", "local, `NAME-plain`", "connector, `NAME`", "connector, `NAME-plain`"]
    return table(head, rows)


def required_versions() -> str:
    """Since which version of OpenSearch a feature works."""
    from darl_opensearch.cluster.compatibility import REQUIRED

    return table(["what", "since", "before"], [(one.what, one.number, one.because) for one in REQUIRED.values()])


def traps() -> str:
    """What the node tests have shown on each version: trap, mode, version."""
    from darl_opensearch.cluster.compatibility import supports
    from darl_opensearch.connect import Identity
    from tests.opensearch.traps import TRAPS, read_results, tabulate

    results = read_results()

    def cell(mode: str, version: str, outcomes: set[str]) -> str:
        if mode == "local" and not supports(Identity(version, "").version, "local"):
            return "refused"
        return {frozenset({"passed"}): "yes"}.get(
            frozenset(outcomes), f"**{', '.join(sorted(outcomes)) or 'missing'}**"
        )

    rows = []
    for trap in TRAPS:
        found = tabulate(trap, results)
        for mode in sorted(found):
            cells = (cell(mode, version, found[mode].get(version, set())) for version in results)
            rows.append((trap.what, mode, *cells))
    return table(["what holds", "mode", *results], rows)


def spool_counters() -> str:
    """What the spool counts, from the comments beside the names."""
    source = (ROOT / "darl_opensearch/ood/spool.py").read_text(encoding="utf-8")
    block = source.partition("COUNTERS = (")[2].partition("\n)")[0]
    return table(["counter", "counts"], [(f"`{n}`", text) for n, text in re.findall(r'"(\w+)",\s+# (.+)', block)])


def bundle_files() -> str:
    """The files of a bundle."""
    from darl_opensearch import bundle

    told = {
        bundle.CARD: "the card: what the bundle is, and the SHA-256 of every other file",
        bundle.MODEL: "the graph: `input_ids, attention_mask, token_type_ids` to `scores`",
        bundle.MODEL_DATA: "weights of a model of more than 1.9 GB, for both graphs; such a bundle has no zip",
        bundle.MODEL_INT8: "the same, weights quantised, with its own OOD calibration; the split backbone has none",
        bundle.FEATURES: "the same inputs to `features`: what selection and drift are measured on",
        bundle.ENCODE: "one half, query or item: its token states and pooled vectors",
        bundle.ENCODE_INT8: "the same, weights quantised",
        bundle.OOD_SIDES: "what a half adds to the OOD distance",
        bundle.OOD_SIDES_INT8: "the same, its references encoded by the quantised encoder",
        bundle.MEET: "a query and items that are encoded to `scores`",
        bundle.MEET_INT8: "the same, with the OOD calibration of the quantised encoder",
        bundle.TOKENIZER: "the pair tokenizer, with template and truncation; ML Commons reads the same file",
        bundle.README: "the model card, for people",
        bundle.ZIP: "what ML Commons takes: the graph and the tokenizer",
        bundle.CALIBRATION: "detector distances of the calibration pairs, ascending",
        bundle.REFERENCE: "features of pairs that held-out queries retrieve, to measure drift against",
        bundle.REFERENCE_QUERIES: "how many of its rows are of which query, and how many items that retrieved",
        bundle.TEXTS: "training queries and judged items as text, only with `darl export --texts`",
        bundle.PROBES: "pairs with what torch said about them: parity can be checked without torch",
        f"{bundle.CHECKPOINT}/": "weights (safetensors), resolved configuration: where another training starts",
    }
    always = dict.fromkeys((bundle.CARD, *bundle.REQUIRED), "yes") | {bundle.ZIP: "but with weights apart"}
    rows = [(f"`{n}`", always.get(n, ""), text) for n, text in told.items()]
    return table(["file", "always there", "what it is"], rows)


def card_fields() -> str:
    """The fields of ``darl.json``."""
    from darl_opensearch.bundle import FORMAT, Card, OodCard

    told = _params(Card)
    rows = [("`format`", f"{FORMAT}: the format's number")]
    rows += [(f"`{n}`", text) for n, text in told.items() if n not in ("scale", "template", "ood")]
    rows += [("`grades`", "list of `{name, gain}`, lowest first"), ("`template`", told["template"])]
    rows += [(f"`ood.{n}`", text) for n, text in _params(OodCard).items()]
    rows.append(("`files`", "SHA-256 of every other file, by relative path"))
    return table(["field", "meaning"], rows)


def first_steps() -> str:
    """The steps from a clone to a ranking, with the seconds that ``docs/tutorial-log.txt`` has of them."""
    log = (ROOT / "docs/tutorial-log.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^(?:\$|>>>) (.*?)\n\(([\d.]+) s, ", log, flags=re.DOTALL | re.MULTILINE)
    seconds = [float(next(took for block, took in blocks if re.search(code, block))) for code in _TIMED.values()]
    rows = [
        ("get it", "2: `git clone`, `cd`", "not measured"),
        ("install", "1: `pip install '.[cpu,train,demo]'`", "not measured"),
    ]
    rows += [(step, count, f"{took:.1f}") for (step, count), took in zip(_TIMED, seconds, strict=True)]
    rows.append(("**all**", "**5, and Python**", f"**{sum(seconds):.1f}** from training on"))
    return table(["step", "commands", "seconds"], rows)


_TIMED = {
    ("train", "1: `darl train`"): r"\ndarl train darl\.toml\n", ("export", "1: `darl export`"): r"\Adarl export ",
    ("open and rank", "a few lines of Python"): r"reranker\.rank\(",
}  # fmt: skip  # regular expressions of the log's code


def search_times() -> str:
    """What a search takes by mode, as ``benchmarks.serving.cluster`` measured it."""
    modes = _result("cluster")["modes"]
    names = {
        "first stage alone": "first stage alone", "in Python, warm": "in Python, items known",
        "by connector, warm": "by connector, items known", "by connector, cold": "by connector, items not known",
        "in the cluster, fp32": "in the cluster",
    }  # fmt: skip
    rows = [
        (told, *(f"{modes[key]['p50_ms']:.0f}" if (key := f"{name}, {n}") in modes else "" for n in (10, 50)))
        for name, told in names.items()
    ]
    return table(["mode", "10 candidates", "50 candidates"], rows)


def searches_at_once() -> str:
    """What several clients get, as ``benchmarks.serving.growth`` measured it."""
    found = _result("growth")["by_clients"].items()
    rows = [(n, f"{row['searches_per_s']['p50']:.0f}", f"{row['ms']['p50']:.0f}") for n, row in found]
    return table(["clients", "searches a second", "median, ms"], rows)


def state_sizes() -> str:
    """What item states take on disk, as ``benchmarks.serving.growth`` measured it."""
    rows = [
        (f"{int(n):,}", f"{row['file_mb']:,.0f}", f"{row['written_per_s']:,}", f"{row['read_100_ms']['p50']:.0f}")
        for n, row in _result("growth")["stores"].items()
    ]
    return table(["items", "MB on disk", "states written a second", "reading 100 of them, ms"], rows)


def _result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks/serving/results" / f"{name}.json").read_text(encoding="utf-8"))


def preflight_settings() -> str:
    """Cluster settings that registering asks for."""
    preflight = importlib.import_module("darl_opensearch.cluster.preflight")  # the package has a function of that name
    found = {
        "local": preflight._local_problems(_Opposite(), has_ml_node=False),
        "connector": preflight._connector_problems(_Opposite(), "http://127.0.0.1:8091/v1/rerank"),
    }
    rows = []
    for mode, settings in found.items():
        for one in settings:
            wanted = one.wanted[0] if isinstance(one.wanted, list) else str(one.wanted).lower()
            rows.append((mode, f"`{one.name}`", f"`{wanted}`", one.why))
    return table(["mode", "setting", "must be, or hold", "because"], rows)


class _Opposite(dict[str, Any]):
    """Settings of a cluster in which every one stands in the way."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Any:
        return "neither"

    def get(self, key: str, default: Any = None) -> Any:
        return default


def _params(cls: type[Any]) -> dict[str, str]:
    """The ``:param name: text`` fields of a docstring."""
    text = cls.__doc__ or ""
    found = re.findall(r":param (\w+): (.*?)(?=\n\s*:|\n\s*\n|\Z)", text, flags=re.DOTALL)
    return {name: _plain(" ".join(value.split())) for name, value in found}


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`<]+)`", lambda m: f"`{m[1].rsplit('.', 1)[-1]}`", text)
    return text.replace("``", "`").rstrip(".")


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
