"""Contexts and builds of them by an unmodified docker command with buildx."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[Any]]
BASE = "portside/base"
PLUGINS = [str(Path(pwd.getpwuid(os.getuid()).pw_dir, ".docker/cli-plugins"))]


class Builder:
    """A context, and builds of it: ``build(text, "-t", …, files={…}, check=True)``."""

    def __init__(self, env: dict[str, str], path: Path) -> None:
        self.env, self.path = env, path

    def files(self, text: str, files: dict[str, str] | None = None) -> None:
        for name, content in (files or {}).items():
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        (self.path / "Dockerfile").write_text(text)

    def __call__(
        self, text: str, *args: str, files: dict[str, str] | None = None, check: bool = True,
        command: tuple[str, ...] = ("build",), where: str = "",
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        self.files(text, files)
        done = subprocess.run(
            ["docker", *command, "--progress=plain", *args, where or str(self.path)],
            env=self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"{done.stdout}\n{done.stderr}")
        return done

    def docker(self, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *args], env=self.env, capture_output=True, text=True, timeout=120, **more
        )


@pytest.fixture
def build(docker_env: dict[str, str], tmp_path: Path) -> Builder:
    path = tmp_path / "context"
    path.mkdir()
    config = tmp_path / "docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": PLUGINS}))
    env = {**docker_env, "BUILDKIT_PROGRESS": "plain", "DOCKER_CONFIG": str(config)}
    return Builder(env, path)
