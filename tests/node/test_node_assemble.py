"""Downloads that break, assemblies that are interrupted, two at once."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.node import assemble as assembly
from darl_opensearch.node.assemble import assemble
from darl_opensearch.node.fetch import fetch
from darl_opensearch.node.manifest import VERSIONS, manifest_path, read_manifest

ALL = ["opensearch", "plugin-a", "plugin-b", "module-a", "natives"]


@pytest.mark.parametrize(("version", "count"), [*zip(VERSIONS, (7, 26), strict=True)])
def test_the_shipped_lists(version, count, monkeypatch) -> None:
    monkeypatch.setattr("darl_opensearch.node.manifest.Natives.fit_this_machine", lambda _: True)
    manifest = read_manifest(manifest_path(version))
    artifacts = manifest.to_fetch()
    assert manifest.version == version
    assert len({artifact.file for artifact in artifacts}) == len(artifacts) == count
    assert all(re.fullmatch("[0-9a-f]{64}", artifact.sha256) for artifact in artifacts)
    names = [plugin.file.rpartition("-")[0] for plugin in manifest.plugins]
    assert names.index("opensearch-job-scheduler") < names.index("opensearch-ml-plugin")
    assert names.index("opensearch-knn") < names.index("neural-search")
    assert manifest.image.endswith(f":{manifest.version}")
    assert "://" not in manifest_path(version).read_text("utf-8")  # Maven knows where its registries are


def test_natives_of_another_machine_are_left_out(world, monkeypatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    dist = assemble(world.layout, world.manifest, world.jdk)
    assert world.mvn_calls() == ALL[:-1]
    assert list((dist / "natives").iterdir()) == []


def test_a_whole_assembly(world) -> None:
    before = os.umask(0o077)
    try:
        dist = assemble(world.layout, world.manifest, world.jdk)
    finally:
        os.umask(before)
    assert world.mvn_calls() == ALL
    assert (dist / "natives" / "1-libtorch.so").read_text() == "torch"
    installed = (dist / "opensearch" / "bin" / "installed").read_text().split()
    assert installed[:2] == ["install", "--batch"]
    assert [Path(uri).name for uri in installed[2:]] == ["plugin-a-9.9.9.zip", "plugin-b-9.9.9.zip"]
    module = dist / "opensearch" / "modules" / "module-a"
    assert {path.name for path in module.iterdir()} == {
        "module-a-9.9.9.zip", "plugin-descriptor.properties", "plugin-security.policy",
    }  # fmt: skip
    assert (module / "plugin-descriptor.properties").read_text() == (
        "name=module-a\ndescription=Module A\nversion=9.9.9\nopensearch.version=9.9.9\njava.version=11\n"
        "classname=org.example.A\nextended.plugins=x,y\nhas.native.controller=false\n"
    )
    policy = (module / "plugin-security.policy").read_text()
    assert policy == 'grant { permission java.lang.RuntimePermission "getClassLoader"; };\n'
    for path in (dist, *dist.rglob("*")):
        assert path.stat().st_mode & 0o444 == 0o444, path
        if path.is_dir():
            assert path.stat().st_mode & 0o111 == 0o111, path
    assert (dist / "opensearch" / "bin" / "opensearch").stat().st_mode & stat.S_IXOTH
    assert not list(world.layout.maven_repo.rglob("*.zip"))  # no second copy of 670 MB
    assemble(world.layout, world.manifest, world.jdk)
    assert world.mvn_calls() == ALL


def test_a_truncated_download_is_fetched_again(world) -> None:
    (world.folder / "broken-plugin-a").write_text("2")
    told: list[str] = []
    assemble(world.layout, world.manifest, world.jdk, told.append)
    assert world.mvn_calls() == ["opensearch", "plugin-a", "plugin-a", "plugin-a", "plugin-b", "module-a", "natives"]
    size = world.manifest.plugins[0].bytes
    assert told.count(f"plugin-a-9.9.9.zip: the download has {size - 7} bytes instead of {size} and was discarded") == 2


def test_a_tampered_download_is_refused(world) -> None:
    served = world.folder / "served" / "plugin-a-9.9.9.zip"
    served.write_bytes(served.read_bytes()[:-1] + b"x")
    with pytest.raises(DarlError) as caught:
        assemble(world.layout, world.manifest, world.jdk)
    assert re.sub("[0-9a-f]{12}…", "…", str(caught.value)) == (
        "org.example:plugin-a:9.9.9:zip: the download has SHA-256 … instead of … and was discarded (3 attempts). "
        "Check the network and the mirrors in Maven's settings.xml, then run this again."
    )
    assert world.mvn_calls().count("plugin-a") == 3
    kept = [path.name for path in world.layout.downloads(world.manifest).iterdir()]
    assert kept == ["opensearch-9.9.9.zip"]  # the broken one is nowhere
    assert not list(world.layout.maven_repo.rglob("*.zip"))


def test_a_file_damaged_in_the_cache_is_fetched_again(world) -> None:
    artifact = world.manifest.plugins[0]
    path = fetch(artifact, world.manifest, world.layout, world.jdk)
    path.write_bytes(b"x" * artifact.bytes)
    fetch(artifact, world.manifest, world.layout, world.jdk)
    assert digest_file(path) == artifact.sha256
    assert world.mvn_calls() == ["plugin-a", "plugin-a"]


def test_maven_says_no(world) -> None:
    (world.folder / "refuse").touch()
    with pytest.raises(DarlError, match=r"Maven failed with exit code 1: \[ERROR\] Could not find artifact org\."):
        assemble(world.layout, world.manifest, world.jdk)


def test_no_maven(world, monkeypatch) -> None:
    (world.folder / "bin" / "mvn").unlink()
    monkeypatch.setenv("PATH", str(world.folder / "bin"))
    with pytest.raises(DarlError, match=r"^mvn: Maven is not on PATH, and the node is not cached yet\. Install"):
        assemble(world.layout, world.manifest, world.jdk)


def test_an_interrupted_assembly_leaves_nothing_half(world, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assembly, "install_plugins", interrupt)
        assemble(world.layout, world.manifest, world.jdk)
    version_folder = world.layout.dist(world.manifest).parent
    assert [path.name for path in version_folder.iterdir()] == ["downloads"]
    assemble(world.layout, world.manifest, world.jdk)
    assert world.mvn_calls() == ALL  # what was whole is not fetched twice


def test_a_killed_assembly_goes_on(world) -> None:
    (world.folder / "hang").touch()
    code = (
        "import pathlib, sys\n"
        "from darl_opensearch.node.assemble import assemble\n"
        "from darl_opensearch.node.cache import Layout\n"
        "from darl_opensearch.node.java import Jdk\n"
        "from darl_opensearch.node.manifest import read_manifest\n"
        "world, cache = map(pathlib.Path, sys.argv[1:])\n"
        "assemble(Layout(cache), read_manifest(world / 'artifacts.json'), Jdk(world / 'jdk', 21, ''))\n"
    )
    command = [sys.executable, "-c", code, str(world.folder), str(world.layout.cache)]
    killed = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 20
    while "plugin-b" not in world.mvn_calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    downloads = world.layout.downloads(world.manifest)
    assert list(downloads.glob(".fetch-*"))
    (downloads.parent / f".{world.layout.dist(world.manifest).name}-dead").mkdir()
    (world.folder / "hang").unlink()
    assert assemble(world.layout, world.manifest, world.jdk).is_dir()
    assert world.mvn_calls() == ["opensearch", "plugin-a", "plugin-b", "plugin-b", "module-a", "natives"]
    assert not list(downloads.parent.rglob(".*"))


def test_two_at_once_share_one_assembly(world) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(assemble(world.layout, world.manifest, world.jdk)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [world.layout.dist(world.manifest)] * 2
    assert world.mvn_calls() == ALL


def test_a_failing_installer(world, monkeypatch) -> None:
    home = assemble(world.layout, world.manifest, world.jdk) / "opensearch"
    (home / "bin" / "opensearch-plugin").write_text("#!/bin/sh\necho 'ERROR: jar hell!' >&2\nexit 78\n")
    with pytest.raises(DarlError, match=r"installing plugins failed with exit code 78: ERROR: jar hell!"):
        assembly.install_plugins(home, [], world.jdk)


def test_a_changed_list_is_assembled_beside_the_old(world) -> None:
    old = assemble(world.layout, world.manifest, world.jdk)
    path = world.folder / "other.json"
    table = json.loads((world.folder / "artifacts.json").read_text())
    path.write_text(json.dumps({**table, "plugins": table["plugins"][:1]}))
    assert assemble(world.layout, read_manifest(path), world.jdk) != old
    assert old.is_dir()
    assert world.mvn_calls() == ALL
