"""Two programs for Compose projects on one engine: the real ``docker compose`` and ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clikit import PORTSIDE

ALL = os.environ.get("PORTSIDE_COMPOSE_ALL", "") not in ("", "0")
"""Compare all project files in all ways, which takes long; else those that say most."""
_DIRECTORIES = (
    os.path.expanduser("~/.docker/cli-plugins"),
    "/usr/local/lib/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
_PLAIN = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<ID>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ][0-9:.]+(Z|[+-]\d\d:?\d\d)?( UTC)?"), "<time>"),
    (re.compile(r"Less than a second|(About )?\b(an?|\d+) (second|minute|hour)s?\b"), "<ago>"),
    (re.compile(r" {2,}"), "  "),
)


def docker_compose() -> list[str]:
    """The real program as a command of its own; skips where it is not installed."""
    for directory in _DIRECTORIES:
        path = f"{directory}/docker-compose"
        if os.access(path, os.X_OK):
            return [path]
    found = shutil.which("docker-compose")
    if found is None:
        pytest.skip("needs the compose plugin of docker")
    return [found]


def plain(text: str) -> str:
    """Without what differs between any two runs."""
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


@dataclass
class Program:
    """One of the two programs in a project's directory."""

    command: list[str]
    folder: Path
    env: dict[str, str]

    def __call__(
        self, *words: str, status: int | None = 0, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *words], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=timeout, **({"stdin": subprocess.DEVNULL} if input is None
                                else {"input": input}),
        )  # type: ignore[call-overload] # fmt: skip
        if status is not None:
            assert done.returncode == status, f"{words}: {done.returncode}\n{done.stderr}"
        return done  # type: ignore[no-any-return]


def both(folder: Path, env: dict[str, str]) -> tuple[Program, Program]:
    """The real program and ours."""
    clean = {name: value for name, value in env.items() if not name.startswith("COMPOSE_")}
    return (
        Program(docker_compose(), folder, clean),
        Program([PORTSIDE, "compose"], folder, clean),
    )


_CHANGING = frozenset(
    ("Id", "ID", "Created", "CreatedAt", "StartedAt", "FinishedAt", "Pid", "SandboxID",
     "SandboxKey", "NetworkID", "EndpointID", "Gateway", "IPAddress", "MacAddress", "HostsPath",
     "HostnamePath", "LogPath", "ResolvConfPath", "Hostname", "GraphDriver", "DNSNames", "Log",
     "Health", "ImageManifestDescriptor", "Subnet", "IPv6Gateway", "GlobalIPv6Address",
     "IPPrefixLen")
)  # fmt: skip


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def same(value: Any, name: str = "") -> Any:
    """An inspection without what differs between any two objects."""
    if isinstance(value, dict):
        left_out = _CHANGING | {"HostPort"} if name == "Ports" else _CHANGING
        inner = name if name == "Ports" else ""
        return {key: same(item, inner or key) for key, item in value.items()
                if key not in left_out}  # fmt: skip
    if isinstance(value, list):
        items = [same(item, "Ports" if name == "Ports" else "") for item in value]
        ordered = name in ("Mounts", "Binds", "Env", "Aliases", "Links", "Ulimits", "ExtraHosts")
        return (
            sorted(items, key=lambda item: json.dumps(item, sort_keys=True)) if ordered else items
        )
    if name.endswith(".depends_on"):
        return ",".join(sorted(value.split(",")))
    return plain(value) if isinstance(value, str) else value


def state(engine: Any, project: str) -> dict[str, Any]:
    """Everything of a project by name, comparable."""
    from urllib.parse import quote

    filters = quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    found: dict[str, Any] = {}
    for item in engine.json("GET", f"/containers/json?all=1&filters={filters}"):
        inspected = engine.json("GET", f"/containers/{item['Id']}/json")
        found[inspected["Name"]] = same(inspected)
    for item in engine.json("GET", f"/networks?filters={filters}"):
        found[f"network {item['Name']}"] = same(engine.json("GET", f"/networks/{item['Id']}"))
        found[f"network {item['Name']}"].pop("Containers", None)
        found[f"network {item['Name']}"].pop("Status", None)  # addresses in use, from 1.52
    for item in engine.json("GET", f"/volumes?filters={filters}").get("Volumes") or ():
        found[f"volume {item['Name']}"] = same(item)
    return found


def identifiers(engine: Any, project: str) -> dict[str, str]:
    """IDs of a project's containers by name."""
    from urllib.parse import quote

    filters = quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    found = engine.json("GET", f"/containers/json?all=1&filters={filters}")
    return {item["Names"][0]: item["Id"] for item in found}


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two values differ, one line each."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            line for key in sorted({*first, *second})
                for line in differences(first.get(key), second.get(key), f"{path}.{key}")
        ]  # fmt: skip
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            line for index, (one, other) in enumerate(zip(first, second, strict=True))
            for line in differences(one, other, f"{path}[{index}]")
        ]  # fmt: skip
    return [] if first == second else [f"{path}: {first!r} != {second!r}"]
