"""The docs name what there is: commands, options, keys, registered things, files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from darl_opensearch.settings import read_fields
from docs import conf, gen

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugin_config").glob("*.md"),
                *(ROOT / "examples").glob("*/*.md"), *(ROOT / "benchmarks").glob("*/*.md")]
)  # fmt: skip
COMMANDS = gen.commands()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def shell_lines(text: str) -> list[list[str]]:
    """The commands of a page's ``sh`` blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def darl_calls() -> list[tuple[str, list[str]]]:
    """Every ``darl`` command line in the pages, below its page's name."""
    calls = []
    for path in PAGES:
        for words in shell_lines(path.read_text(encoding="utf-8")):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[0] in ("darl", ".venv/bin/darl"):
                calls.append((path.relative_to(ROOT).as_posix(), words[1:]))
    return calls


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings make."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("where", "words"), darl_calls(), ids=lambda value: " ".join(value)[:60])
def test_command_lines_in_the_docs_are_ones_that_there_are(where, words):
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert name in COMMANDS, where
    command = COMMANDS[name]
    known = {opt: p for p in command.params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{where}: darl {name} has no {word}"
    required = {p.opts[0] for p in command.params if isinstance(p, click.Option) and p.required}
    assert required <= set(words), f"{where}: darl {name} needs {required}"
    for option, value in zip(words, words[1:], strict=False):
        if option in known and isinstance(known[option].type, click.Choice):
            assert value in known[option].type.choices, f"{where}: {option} {value}"


def test_readme_shows_the_two_commands_and_make_has_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, flags=re.MULTILINE))
    assert ["make", "demo"] in shell_lines(readme) and ["make", "test"] in shell_lines(readme)
    for path in PAGES:
        for name in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")):
            assert name in targets, f"{path}: make {name}"
    assert {"demo", "test", "check", "fix", "docs", "lock"} <= targets


def test_readmes_configuration_is_one_that_is_read(tmp_path):
    config = pytest.importorskip("trainer.config")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)
    (tmp_path / "darl.toml").write_text(toml)
    resolved = config.read_config(tmp_path / "darl.toml")
    rows = [json.loads(line) for line in re.findall(r"^\{.*\}$", readme, flags=re.MULTILINE)]
    item, judgment, _ = rows
    assert resolved.template.item_template.render(item) == "Bike theft | text: Stolen bicycles and e-bikes"
    assert judgment["item_id"] == resolved.template.item_template.item_id(item)


def test_readmes_hit_has_the_fields_that_pipelines_write():
    from darl_opensearch.scores import Columns

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hit = json.loads(re.search(r"```json\n(\{\n.*?)```", readme, flags=re.DOTALL)[1])["_source"]
    assert [*Columns(3).hit_fields(), "previous_score"] == [name for name in hit if name != "darl_text"]


def test_every_command_is_in_cli_md():
    text = page("cli.md")
    for name in COMMANDS:
        assert f"\n## darl {name}\n" in text


def test_every_configuration_key_is_in_configuration_md():
    config = pytest.importorskip("trainer.config")
    text = page("configuration.md")
    for name, declared in read_fields(config.Config).items():
        if not declared.is_table:
            assert f"| `{name}` |" in text
            continue
        section = text.partition(f"## `[{name}]`")[2].partition("\n## ")[0]
        keys = read_fields(declared.kind)
        assert set(keys) == {field.name for field in dataclasses.fields(declared.kind)}, "a key is not declared"
        for key, about in keys.items():
            assert f"| `{key}` |" in section, f"[{name}] {key}"
            assert about.field.help, f"[{name}] {key} has no help"


@pytest.mark.parametrize("which", ["grade losses", "rank losses", "backbones", "detectors", "stages", "teachers"])
def test_everything_registered_is_in_methods_md(which):
    pytest.importorskip("torch")
    text = page("methods.md")
    entries = gen.registries()[which]
    assert list(entries)
    for name in entries:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert entries[name].cite in row and entries[name].summary.rstrip(".") in row
        for key in entries[name].params:
            assert f"`{key}`" in row


def test_every_setting_of_the_scorer_is_in_serving_md():
    from darl_opensearch.server.config import ServerConfig

    text = page("serving.md")
    for field in dataclasses.fields(ServerConfig):
        flag = "" if field.metadata["field"].secret else f"`--{field.name.replace('_', '-')}`"  # no argument
        assert f"| {flag} | `DARL_{field.name.upper()}`" in text


def test_every_field_of_a_record_is_in_ood_log_md():
    template = json.loads((ROOT / "plugin_config/ood_index_template.json").read_text())
    text = page("ood-log.md")
    for name in template["template"]["mappings"]["properties"]:
        assert f"| `{name}` |" in text


def test_every_body_is_in_plugin_configs_readme():
    text = (ROOT / "plugin_config/README.md").read_text()
    for path in (ROOT / "plugin_config").glob("*.json"):
        assert f"`{path.name}`" in text


def test_every_decision_is_in_its_list():
    text = page("decisions/README.md")
    for path in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        assert f"({path.name})" in text and re.match(r"# \d+\. \w", path.read_text())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_internal_links_resolve(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name}: {target}"


def test_the_list_of_pages_names_each_once():
    """The site's navigation is this list; Sphinx finds a page that is missing, but not one that is there twice."""
    found = conf.contents(ROOT / "docs/README.md")
    assert [heading for heading, _ in found] == [
        "Tutorial", "How-to", "Concepts", "Reference", "Results", "Decisions", "Project",
    ]  # fmt: skip
    listed = [f"{page}.md" for _, pages in found for page in pages]
    listed += [f"{page}.md" for _, pages in conf.contents(ROOT / "docs/decisions/README.md") for page in pages]
    assert sorted([*listed, "docs/README.md"]) == sorted(path.relative_to(ROOT).as_posix() for path in PAGES)


def test_pages_with_generated_parts_are_those_that_make_docs_reads():
    marked = {path.relative_to(ROOT).as_posix() for path in PAGES if "[[[cog" in path.read_text(encoding="utf-8")}
    (globs,) = re.findall(r"^PAGES := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    read = {path.relative_to(ROOT).as_posix() for pattern in globs.split() for path in ROOT.glob(pattern)}
    assert marked and marked <= read


def toml_blocks():
    for path in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
            yield path.relative_to(ROOT).as_posix(), block


@pytest.mark.parametrize(("where", "block"), list(toml_blocks()), ids=lambda value: value[:40])
def test_keys_in_toml_blocks_are_ones_that_there_are(where, block):
    config, cycle = pytest.importorskip("trainer.config"), pytest.importorskip("trainer.cycle.config")
    tables = [read_fields(config.Config), read_fields(cycle.CycleConfig)]
    given = tomllib.loads(block)

    def known(name, value, fields):
        if name not in fields:
            return False
        declared = fields[name]
        return not declared.is_table or set(value) <= set(read_fields(declared.kind))

    assert any(all(known(name, value, fields) for name, value in given.items()) for fields in tables), where


def test_files_that_messages_point_to_are_there():
    source = "\n".join(p.read_text() for top in ("darl_opensearch", "trainer") for p in (ROOT / top).rglob("*.py"))
    named = set(re.findall(r"docs/[\w./-]+\.md", source))
    assert named and all((ROOT / name).is_file() for name in named)


def test_what_is_generated_is_current():
    """The same as ``make docs-check``, for those who run the tests alone."""
    pages = [str(p) for p in [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/howto").glob("*.md"))]]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DARL_", "OPENSEARCH_"))}
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", "-I", str(ROOT), *pages],
        cwd=ROOT, env=clean, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"run make docs\n{done.stdout}{done.stderr}"
