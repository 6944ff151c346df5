"""Where the cache lies, who can read it, and its locks."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError
from darl_opensearch.node import account, cache
from darl_opensearch.node.account import Account, node_account
from darl_opensearch.node.cache import find_cache, lock_cache, make_folder

STRANGER = Account("stranger", os.getuid() + 4711, os.getgid() + 4711)


@pytest.fixture
def open_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose parents are open to all, as far as the code can see."""
    real = Account.may_enter
    monkeypatch.setattr(Account, "may_enter", lambda who, part: part in tmp_path.parents or real(who, part))
    tmp_path.chmod(0o755)
    return tmp_path


def test_the_cache_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARL_CACHE", str(tmp_path / "by-env"))
    assert find_cache(None, None).cache == tmp_path / "by-env"
    assert find_cache(tmp_path / "by-flag", None).cache == tmp_path / "by-flag"
    monkeypatch.delenv("DARL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_cache(None, None).cache == tmp_path / "xdg" / "darl-opensearch"


def test_a_closed_cache_folder(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = open_folder / "root"
    home.mkdir(mode=0o700)
    monkeypatch.delenv("DARL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    told: list[str] = []
    assert find_cache(None, STRANGER, told.append).cache == cache.SYSTEM_CACHE
    assert told == [f"user stranger cannot reach {home}/.cache/darl-opensearch; using {cache.SYSTEM_CACHE}"]
    with pytest.raises(DarlError, match=r"root/x: user stranger, who runs the node, cannot reach .* --cache"):
        find_cache(home / "x", STRANGER)
    home.chmod(0o711)
    assert find_cache(None, STRANGER).cache == home / ".cache" / "darl-opensearch"


def test_a_path_the_start_script_would_break(tmp_path: Path) -> None:
    with pytest.raises(DarlError, match="cannot handle a path with a space or a colon"):
        find_cache(tmp_path / "my cache", None)


@pytest.mark.parametrize(("mode", "owner"), [(0o100, "uid"), (0o010, "gid"), (0o001, "other")])
def test_reach_follows_owner_group_other(open_folder: Path, mode: int, owner: str) -> None:
    folder = open_folder / "x"
    folder.mkdir()
    folder.chmod(mode)
    who = {
        "uid": Account("a", os.getuid(), 1),
        "gid": Account("b", 4711, folder.stat().st_gid),
        "other": STRANGER,
    }
    assert {name: one.can_reach(folder / "new") for name, one in who.items()} == {name: name == owner for name in who}
    folder.chmod(0o755)


def test_root_runs_the_node_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARL_NODE_USER", raising=False)
    monkeypatch.setattr(account.os, "geteuid", lambda: 0)
    nobody = pwd.getpwnam("nobody")
    assert node_account() == Account("nobody", nobody.pw_uid, nobody.pw_gid)
    with pytest.raises(DarlError, match=r"^DARL_NODE_USER: OpenSearch refuses to run as root\. Set another"):
        node_account("root")
    monkeypatch.setenv("DARL_NODE_USER", "no-such-user")
    with pytest.raises(DarlError, match="user 'no-such-user' does not exist"):
        node_account()
    monkeypatch.setattr(account.os, "geteuid", lambda: 1000)
    assert node_account() is None


def test_folders_are_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [part.stat().st_mode & 0o777 for part in (made, made.parent)] == [0o755, 0o755]


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    path, order, told = tmp_path / "x.lock", [], threading.Event()

    def second() -> None:
        with lock_cache(path, lambda text: (order.append(text), told.set())):
            order.append("second")

    with lock_cache(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order[1:] == ["first", "second"]
    assert order[0].startswith(f"waiting for another process that is using the same node (process {os.getpid()} on ")


def test_a_lock_that_is_never_let_go(tmp_path: Path) -> None:
    with (
        lock_cache(tmp_path / "x.lock"),
        pytest.raises(DarlError, match=rf"another process has held this lock .* \(process {os.getpid()} on "),
    ):
        with lock_cache(tmp_path / "x.lock", wait_s=0):
            pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from darl_opensearch.node.cache import lock_cache\n"
        f"with lock_cache(pathlib.Path({str(tmp_path / 'x.lock')!r})): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with lock_cache(tmp_path / "x.lock", wait_s=0):
        pass
