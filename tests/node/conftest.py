"""A machine in miniature: a fake Java, a fake Maven with its artifacts, a fake node that answers like one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from darl_opensearch.node import lifecycle
from darl_opensearch.node.cache import Layout
from darl_opensearch.node.java import Jdk
from darl_opensearch.node.manifest import Manifest, read_manifest

# Copies an artifact from a folder instead of the network. It writes down each call, and can be told to serve
# a broken file for a number of calls, to refuse, or to hang.
MVN = """#!{python}
import os, pathlib, shutil, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv if word.startswith("-D"))
world = pathlib.Path({world!r})
with (world / "mvn.log").open("a") as log:
    log.write(given["artifact"] + "\\n")
if (world / "hang").exists() and "plugin-b" in given["artifact"]:
    time.sleep(60)
group, name, version = given["artifact"].split(":")[:3]
kept = pathlib.Path(given["maven.repo.local"], *group.split("."), name, version)
kept.mkdir(parents=True, exist_ok=True)
source = world / "served" / f"{{name}}-{{version}}.zip"
broken = world / f"broken-{{name}}"
target = pathlib.Path(given["outputDirectory"], source.name)
if not (kept / source.name).exists():
    shutil.copy(source, kept)
    times = int(broken.read_text()) if broken.exists() else 0
    if times:
        broken.write_text(str(times - 1))
        (kept / source.name).write_bytes(source.read_bytes()[:-7])
if (world / "refuse").exists():
    sys.exit("[ERROR] Could not find artifact " + given["artifact"])
shutil.copy(kept / source.name, target)
"""

# Reads its port from the configuration that it is given. The word in the file `behaviour` makes it misbehave.
NODE = """
import http.server, json, os, pathlib, signal, subprocess, sys, time
conf = pathlib.Path(os.environ["OPENSEARCH_PATH_CONF"])
words = (row.split(": ", 1) for row in (conf / "opensearch.yml").read_text().splitlines())
settings = {key: json.loads(value) for key, value in words}
behaviour = conf.parents[2] / "behaviour"
behaviour = behaviour.read_text() if behaviour.exists() else ""
if behaviour == "dies":
    print("[INFO ] starting\\n[ERROR] bootstrap checks failed: too few file descriptors")
    sys.exit(78)
if behaviour == "mute":
    time.sleep(60)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "parent":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
ANSWERS = {
    "/": {"cluster_name": settings["cluster.name"], "version": {"number": "9.9.9"}},
    "/_cluster/health": {"cluster_name": settings["cluster.name"], "status": "green"},
    "/_cat/plugins": [{"component": "plugin-a", "version": "1.0"}],
}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(ANSWERS[self.path.partition("?")[0]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.HTTPServer((settings["network.host"], int(settings["http.port"])), Handler).serve_forever()
"""

START = '#!/bin/sh\nexec "{python}" "$(dirname "$0")/node.py"\n'
INSTALL = '#!/bin/sh\nfor word in "$@"; do echo "$word" >> "$(dirname "$0")/installed"; done\n'
JVM_OPTIONS = """\
-Xmx1g
-XX:HeapDumpPath=data
-XX:ErrorFile=logs/hs_err_pid%p.log
9-:-Xlog:gc*:file=logs/gc.log:utctime
21-:-javaagent:agent/opensearch-agent.jar
"""


@dataclass(frozen=True)
class World:
    """What a test may turn.

    :param folder: holds the switches that the fake Maven looks for.
    :param layout: the cache.
    :param manifest: what the fake Maven can serve.
    """

    folder: Path
    layout: Layout
    manifest: Manifest
    jdk: Jdk

    def mvn_calls(self) -> list[str]:
        log = self.folder / "mvn.log"
        return [row.split(":")[1] for row in log.read_text().splitlines()] if log.exists() else []

    def behave(self, word: str) -> None:
        self.layout.root.mkdir(parents=True, exist_ok=True)
        (self.layout.root / "behaviour").write_text(word)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_java(home: Path, version: str) -> Path:
    script(home / "bin" / "java", f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-04-21' >&2\n")
    return home


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    folder = tmp_path / "world"
    script(folder / "bin" / "mvn", MVN.format(python=sys.executable, world=str(folder)))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("DARL_JAVA_HOME", str(fake_java(folder / "jdk", "21.0.4")))
    monkeypatch.setenv("DARL_CACHE", str(tmp_path / "cache"))
    manifest = read_manifest(_manifest(folder))
    monkeypatch.setattr(lifecycle, "read_manifest", lambda _: manifest)
    # The folders of a test are closed to other users, and the fake node minds no root.
    monkeypatch.setattr(lifecycle, "node_account", lambda name=None: None)
    made = World(folder, Layout(tmp_path / "cache"), manifest, Jdk(folder / "jdk", 21, "test"))
    yield made
    for instance in (made.layout.root / "instances").glob("*"):
        lifecycle.down(int(instance.name), timeout_s=0, purge=True)


def _manifest(folder: Path) -> Path:
    node = {
        "bin/opensearch": START.format(python=sys.executable),
        "bin/opensearch-plugin": INSTALL,
        "modules/x/x.jar": "x",
        "bin/node.py": NODE,
        "config/opensearch.yml": "# empty\n",
        "config/jvm.options": JVM_OPTIONS,
    }
    rows = {
        "opensearch": _zip({f"opensearch-9.9.9/{name}": text for name, text in node.items()}),
        "plugin-a": _zip({"a.jar": "a"}),
        "plugin-b": _zip({"b.jar": "b"}),
        "module-a": _zip({"A.class": "a"}),
        "natives": _zip({"lib/libtorch.so": "torch", "lib/other": "no"}),
    }
    (folder / "served").mkdir(parents=True)
    artifacts = {}
    for name, body in rows.items():
        (folder / "served" / f"{name}-9.9.9.zip").write_bytes(body)
        digest = hashlib.sha256(body).hexdigest()
        coordinates = f"org.example:{name}:9.9.9:zip"
        artifacts[name] = {
            "coordinates": coordinates,
            "file": f"{name}-9.9.9.zip",
            "bytes": len(body),
            "sha256": digest,
        }
    table = {
        "version": "9.9.9",
        "image": "opensearchproject/opensearch:9.9.9",
        "java": {"oldest": 21, "newest": None},
        "maven_goal": "copy",
        "distribution": artifacts["opensearch"],
        "plugins": [artifacts["plugin-a"], artifacts["plugin-b"]],
        "modules": [
            {
                "name": "module-a",
                "description": "Module A",
                "classname": "org.example.A",
                "extends": ["x", "y"],
                "runtime_permissions": ["getClassLoader"],
                "jars": [artifacts["module-a"]],
            }
        ],
        "natives": {
            "system": os.uname().sysname,
            "machine": os.uname().machine,
            "folder": "pytorch/9-cpu",
            "archives": [artifacts["natives"]],
            "members": {"lib/libtorch.so": "1-libtorch.so"},
        },
    }
    (folder / "artifacts.json").write_text(json.dumps(table))
    return folder / "artifacts.json"


def _zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            executable = text.startswith("#!")
            entry.external_attr = (0o100750 if executable else 0o100640) << 16
            archive.writestr(entry, text)
    return buffer.getvalue()
