"""Which Java is chosen, and what is said when none will do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError
from darl_opensearch.node import java
from darl_opensearch.node.account import Account
from darl_opensearch.node.manifest import JavaVersions

NEW, OLD = JavaVersions(oldest=21, newest=None), JavaVersions(oldest=17, newest=21)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Java."""
    (tmp_path / "jvm").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(java, "JVM_FOLDER", tmp_path / "jvm")
    for name in ("DARL_JAVA_HOME", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def install(home: Path, version: str, *, release: bool = False) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    (home / "bin" / "java").chmod(0o755)
    if release:
        (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return home


@pytest.mark.parametrize(
    ("version", "major"), [("21.0.4", 21), ("25", 25), ("1.8.0_292", 8), ("17.0.15", 17), ("26-ea", 26)]
)
def test_version_is_read_from_a_run(machine: Path, version: str, major: int) -> None:
    assert java.java_major(install(machine / "x", version) / "bin" / "java") == major


def test_order_of_places(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = install(machine / "path", "24.0.1")
    (machine / "bin" / "java").symlink_to(on_path / "bin" / "java")
    assert java.find_jdk(NEW).home == on_path
    install(machine / "jvm" / "a-25", "25.0.1", release=True)
    assert java.find_jdk(NEW).major == 25
    install(machine / "jvm" / "b-21", "21.0.1", release=True)
    assert java.find_jdk(NEW).major == 21  # the version that OpenSearch 3 was built for is the safest
    monkeypatch.setenv("JAVA_HOME", str(install(machine / "home", "22.0.1")))
    assert java.find_jdk(NEW) == java.Jdk(machine / "home", 22, "JAVA_HOME")
    monkeypatch.setenv("DARL_JAVA_HOME", str(install(machine / "named", "23.0.1")))
    assert java.find_jdk(NEW).home == machine / "named"


def test_an_old_java_home_is_passed_over(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(install(machine / "home", "17.0.15")))
    install(machine / "jvm" / "b-21", "21.0.1")
    assert java.find_jdk(NEW).home == machine / "jvm" / "b-21"


def test_a_java_that_is_too_new_for_the_version(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("a-25", "25.0.1"), ("b-21", "21.0.1"), ("c-17", "17.0.15"), ("d-11", "11.0.2")):
        install(machine / "jvm" / name, version, release=True)
    assert java.find_jdk(OLD).home == machine / "jvm" / "c-17"
    assert java.find_jdk(NEW).home == machine / "jvm" / "b-21"
    monkeypatch.setenv("DARL_JAVA_HOME", str(machine / "jvm" / "a-25"))
    with pytest.raises(
        DarlError, match=r"^java: no Java 17 to 21 \(DARL_JAVA_HOME has Java 25 at .*a-25\)\. Install a"
    ):
        java.find_jdk(OLD)


def test_a_named_java_is_not_passed_over(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARL_JAVA_HOME", str(install(machine / "named", "17.0.15")))
    install(machine / "jvm" / "b-21", "21.0.1")
    with pytest.raises(DarlError, match=r"^java: no Java 21 or later \(DARL_JAVA_HOME has Java 17 at .*named\)\. "):
        java.find_jdk(NEW)


def test_nothing_found(machine: Path) -> None:
    with pytest.raises(DarlError) as caught:
        java.find_jdk(NEW)
    assert str(caught.value) == (
        "java: no Java 21 or later (no Java at all). Install a JDK 21 or later, or set DARL_JAVA_HOME to one."
    )


def test_every_find_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(machine / "gone"))
    install(machine / "jvm" / "a-17", "17.0.15")
    (machine / "bin" / "java").symlink_to(machine / "jvm" / "a-17" / "bin" / "java")  # the same one: named once
    with pytest.raises(DarlError) as caught:
        java.find_jdk(NEW)
    assert f"JAVA_HOME has no working java at {machine}/gone; " in str(caught.value)
    assert str(caught.value).count("has Java 17") == 1


def test_a_java_that_the_node_user_cannot_read(machine: Path) -> None:
    home = install(machine / "jvm" / "b-21", "21.0.1")
    home.chmod(0o700)
    with pytest.raises(DarlError, match="which user someone cannot read"):
        java.find_jdk(NEW, Account("someone", os.getuid() + 4711, os.getgid() + 4711))
