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
from urllib.parse import urlsplit

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
    """The commands of a page's ``sh`` blocks, as words, without what a command reads from the block."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    heredoc = re.compile(r"<<'?(\w+)'?\n.*?\n\1\n", flags=re.DOTALL)
    commands = (heredoc.sub("\n", block.replace("\\\n", " ")) for block in blocks)
    lines = [part for text in commands for line in text.splitlines() for part in line.split(" && ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def calls() -> list[tuple[str, list[str]]]:
    """Every command line in the pages, without what is set for it, below its page's name."""
    found = []
    for path in PAGES:
        for words in shell_lines(path.read_text(encoding="utf-8")):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            found += [(path.relative_to(ROOT).as_posix(), words)] if words else []
    return found


def quoted_calls() -> list[tuple[str, list[str]]]:
    """Every command that the pages' prose quotes, below its page's name."""
    found = []
    for path in PAGES:
        prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for quoted in re.findall(r"`((?:darl|make|python -m) [^`]+)`", prose):
            found.append((path.relative_to(ROOT).as_posix(), shlex.split(quoted)))
    return found


def find_command(where: str, words: list[str]) -> tuple[str, list[str]]:
    """The name of the ``darl`` command that words call, and its arguments."""
    names = [name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS]
    assert names, f"{where}: darl {words[0]}"
    return names[0], words[len(names[0].split()) :]


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings make."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


DARL = [(where, words[1:]) for where, words in calls() if words[0] in ("darl", ".venv/bin/darl")]


@pytest.mark.parametrize(("where", "words"), DARL, ids=lambda value: " ".join(value)[:60])
def test_command_lines_in_the_docs_are_ones_that_there_are(where, words):
    """By click's own parser; whether the files are there is not asked."""
    name, arguments = find_command(where, words)
    command = COMMANDS[name]
    context = click.Context(command, info_name=f"darl {name}")
    given, rest, _ = command.make_parser(context).parse_args(list(arguments))
    assert not rest, f"{where}: darl {name} takes no {rest}"
    for param in command.params:
        assert not param.required or given.get(param.name), f"{where}: darl {name} needs {param.opts}"
        if isinstance(param.type, click.Choice) and param.name in given:
            value = given[param.name]
            for one in value if isinstance(value, list | tuple) else [value]:
                assert one in param.type.choices, f"{where}: {param.opts} {one}"


def test_commands_that_the_prose_quotes_are_ones_that_there_are():
    """They may be cut short, so that nothing is required of them."""
    quoted = [(where, words[1:]) for where, words in quoted_calls() if words[0] == "darl"]
    for where, words in quoted:
        name, arguments = find_command(where, words)
        known = {option for param in COMMANDS[name].params for option in (*param.opts, *param.secondary_opts)}
        for word in arguments:
            assert not word.startswith("--") or word.partition("=")[0] in known, f"{where}: darl {name} has no {word}"
    assert len(quoted) > 50


PROGRAMS = {"cat", "cp", "curl", "echo", "export", "for", "kubectl", "mkdir", "cd", "serve"}  # others'


def test_every_other_command_line_names_what_there_is():
    """A make target, a module with its options, an extra, a file of this repository; anything else is somebody's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, flags=re.MULTILINE))
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for where, words in [*calls(), *quoted_calls()]:
        line = f"{where}: {' '.join(words)}"
        for word in words[1:]:
            if word.partition("/")[0] in tops and not re.search(r"[…*]", word) and "/" in word:
                assert (ROOT / word).exists(), line
        match words:
            case ["darl" | ".venv/bin/darl", *_]:
                pass
            case ["make", target, *_]:
                assert target in targets, line
            case ["python", "-m", module, *rest]:
                path = ROOT / module.replace(".", "/")
                file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
                source = file.read_text(encoding="utf-8")
                for option in (word for word in rest if word.startswith("--")):
                    assert f'"{option}"' in source, line
            case ["python", file, *_]:
                assert (ROOT / file).is_file(), line
            case ["pip", *rest]:
                for extra in re.findall(r"(?:^|darl-opensearch|\.)\[([\w,-]+)\]", " ".join(rest)):
                    assert set(extra.split(",")) <= set(project["optional-dependencies"]), line
            case [program, *_]:
                assert program in PROGRAMS, line


def test_readme_shows_the_two_commands_and_make_has_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, flags=re.MULTILINE))
    assert ["make", "demo"] in shell_lines(readme) and ["make", "test"] in shell_lines(readme)
    assert {"demo", "test", "check", "fix", "docs", "linkcheck", "lock"} <= targets


def test_readme_counts_its_commands_from_a_clone_and_stays_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [words[1] for words in shell_lines(readme) if words[0] == "darl"]
    install = [words for words in shell_lines(readme) if words[0] == "pip"]
    assert names[:5] == ["train", "export", "index", "register", "search"] and len(install) == 1
    clone, without_a_cluster = 2, names.index("export") + 1  # git clone, cd
    assert (clone + 1 + len(names), clone + 1 + without_a_cluster) == (8, 5)
    assert "that is [eight commands](" in readme and "or five and the Python above" in " ".join(readme.split())
    assert len(readme.split()) < 900


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


def test_links_to_elsewhere_are_well_formed():
    """Whether they answer is for ``make linkcheck``, which needs the network."""
    found = 0
    for path in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        linked = r"\]\(([a-z]+:[^)\s]*)\)|<([a-z]+:[^>\s]*)>|^\[[^]]+\]: *(\S+)"
        targets = ["".join(groups) for groups in re.findall(linked, text, flags=re.MULTILINE)]
        for target in targets:
            parts = urlsplit(target)
            assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), target
            assert re.fullmatch(r"[\w./%~+-]*", parts.path) and "//" not in parts.path, target
        bare = set(re.findall(r"https?://[\w-]+\.[\w./%~+-]*[\w/]", text)) - set(targets)
        assert not bare, f"{path.name}: write <{sorted(bare)[0]}>, so that it is a link on the site, too"
        found += len(targets)
    assert found > 10


def test_each_paper_is_cited_alike():
    """By the same authors and year wherever its arXiv id stands, and not before the id's own year."""
    code = (path for top in ("darl_opensearch", "trainer", "benchmarks") for path in (ROOT / top).rglob("*.py"))
    authors = re.compile(r"([A-Z][\w-]+(?: et al\.|(?:,? [A-Z][\w-]+)* and [A-Z][\w-]+)?),? (\d{4}),? $")
    cited: dict[str, set[str]] = {}
    for path in [*PAGES, *code]:
        text = " ".join(re.sub(r"^\s*(#|>)", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).split())
        for mark in re.finditer(r"arXiv:(\S+)", text):
            number = re.match(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})(?!\w)", mark[1])
            assert number and len(number[3]) == (5 if number[1] >= "15" else 4), f"{path.name}: {mark[0]}"
            if by := authors.search(text, 0, mark.start()):
                cited.setdefault(number[0], set()).add(f"{by[1]} {by[2]}")
                assert int(by[2]) >= 2000 + int(number[1]), f"{path.name}: {by[0]}{mark[0]}"
    assert len(cited) > 40
    assert {number: names for number, names in cited.items() if len(names) > 1} == {}


def test_the_site_links_papers_but_not_in_code():
    from docutils import nodes, utils

    page = utils.new_document("page")
    page += nodes.paragraph("", "", nodes.Text("as in arXiv:2109.01903, and "), nodes.literal("", "arXiv:2109.01903"))
    conf.link_papers(None, page)
    assert [(link.astext(), link["refuri"]) for link in page.findall(nodes.reference)] == [
        ("arXiv:2109.01903", "https://arxiv.org/abs/2109.01903")
    ]
    assert page.astext() == "as in arXiv:2109.01903, and arXiv:2109.01903"


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
