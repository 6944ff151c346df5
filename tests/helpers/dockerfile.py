"""Reads a Dockerfile and executes its RUN and COPY steps in a folder instead of a container.

Paths of the image (``/opt/…``, ``/src``, ``/var/lib/darl``) lie below the folder; ``python3`` is this
interpreter's base. What needs the base image itself is left out, and said to be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_PATHS = ("/opt/", "/src", "/var/lib/darl", "/bundle")
NEEDS_THE_IMAGE = ("apt-get",)


def instructions(text):
    """Instructions of a Dockerfile with their arguments, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\s*\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def last_stage(text):
    """Instructions of the final image, by name; the last of a name counts."""
    found = instructions(text)
    start = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def pairs(argument):
    """``ENV``'s names and values."""
    return dict(part.split("=", 1) for part in argument.split())


@dataclass
class Execution:
    """One Dockerfile, executed."""

    context: Path
    root: Path
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    instead: dict[str, str] = field(default_factory=dict)  # a part of a command -> what to run in its place

    def run_file(self, text):
        """Execute every step."""
        tools = self.root / "tools"
        tools.mkdir(parents=True)
        python = tools / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        for name, argument in instructions(text):
            getattr(self, f"_{name.lower()}", lambda _: None)(argument)

    def path(self, path):
        """Where a path of the image lies."""
        return self.root / (path if path.startswith("/") else f"{self.workdir}/{path}").lstrip("/")

    def mapped(self, command):
        """A command with the image's paths replaced; no other absolute path may be in it."""
        for prefix in IMAGE_PATHS:
            command = re.sub(rf"(?<![\w./]){re.escape(prefix)}", f"{self.root}{prefix}", command)
        strange = [w for w in re.findall(r"(?<![\w.:/])/[^\s;&|]+", command) if not w.startswith(str(self.root))]
        if strange:
            raise ValueError(f"{strange} is outside the image's known paths: {command}")
        return command

    def _from(self, _):
        self.workdir, self.env = "/", {}

    def _workdir(self, argument):
        self.workdir = argument
        self.path(argument).mkdir(parents=True, exist_ok=True)

    def _env(self, argument):
        self.env |= pairs(argument)

    def _copy(self, argument):
        *sources, target = argument.split()
        if sources[0].startswith("--from="):
            if sources[1:] != [target]:
                raise ValueError("all stages share one folder here: copy a path to itself")
            return
        for source in sources:
            lines = (self.context / ".dockerignore").read_text().split()
            kept = [line[1:] for line in lines if line[0] == "!"]
            if not any(source == name or source.startswith(f"{name}/") for name in kept):
                raise ValueError(f".dockerignore keeps {source} out")
            here, there = self.context / source, self.path(target)
            if here.is_dir():
                left_out = {self.context / line for line in lines}

                def ignored(folder, names, left_out=left_out):
                    return {name for name in names if name == "__pycache__" or Path(folder, name) in left_out}

                shutil.copytree(here, there, ignore=ignored, dirs_exist_ok=True)
            else:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copy(here, there)

    def _run(self, argument):
        if any(tool in argument for tool in NEEDS_THE_IMAGE):
            self.left_out.append(argument)
            return
        for part, replacement in self.instead.items():
            argument = argument.replace(part, replacement)
        if os.geteuid() != 0:
            argument = re.sub(r" -[og] \d+", "", argument)  # only root may give files away
        # pip's own settings pass through, so that it finds the registry; its cache saves downloads here.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "DARL_"))}
        env = kept | self.env | {"PATH": f"{self.root}/tools:{os.environ['PATH']}"}
        env.pop("PIP_NO_CACHE_DIR", None)
        done = subprocess.run(
            ["sh", "-ec", self.mapped(argument)],
            cwd=self.path(self.workdir), env=env, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"RUN {argument}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def exec_form(argument):
    """The words of an ``ENTRYPOINT``, ``CMD`` or the ``CMD`` of a ``HEALTHCHECK``."""
    return json.loads(argument[argument.index("[") :])
