"""Devices of the machine in build steps (``RUN --device``); entitlements that builds may have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
Build = Callable[..., "subprocess.CompletedProcess[str]"]
AUTO = "org.mobyproject.buildkit.device.autoallow"
SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/dev",
    "containerEdits": {"env": ["GENERAL=1"]},
    "devices": [
        {
            "name": "foo",
            "containerEdits": {
                "env": ["FOO=injected"],
                "deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/full"}],
                "additionalGids": [4321],
            },
        },
        {
            "name": "auto",
            "annotations": {AUTO: "true", "org.mobyproject.buildkit.device.class": "special"},
            "containerEdits": {"env": ["AUTO=yes"]},
        },
    ],
}
SHOW = "env | grep -E '^(FOO|AUTO|GENERAL)=' | sort | tr '\\n' ' '; ls /dev/mine; id -G"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    place = tmp_path_factory.mktemp("cdi")
    (place / "vendor.json").write_text(json.dumps(SPEC))
    running = RunningEngine("--cdi-spec-dir", str(place))
    try:
        running.start()
        yield running
    finally:
        running.remove()


@pytest.fixture(params=["buildx", "portside"])
def build(request: pytest.FixtureRequest, engine: RunningEngine, tmp_path: Path) -> Build:
    def run(*lines: str, allow: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "Dockerfile").write_text("\n".join((f"FROM {BASE}", *lines, "")))
        program = ["docker", "buildx"] if request.param == "buildx" else [
            sys.executable, "-m", "portside"]  # fmt: skip
        flags = ["--allow", allow] if allow else []
        return subprocess.run(
            [*program, "build", "--progress=plain", "--no-cache", *flags, str(tmp_path)],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "DOCKER_HOST": engine.host},
        )  # fmt: skip

    return run


@pytest.mark.parametrize("allow", ["device", "device=vendor.com/dev=foo", "device=vendor.com/dev"])
def test_an_allowed_device_is_in_the_step(build: Build, allow: str) -> None:
    done = build(f"RUN --device=vendor.com/dev=foo {SHOW}", allow=allow)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "FOO=injected GENERAL=1" in shown and "AUTO" not in shown.split("FOO=injected")[1]
    assert "/dev/mine" in shown and "4321" in shown


def test_a_device_is_only_in_the_step_that_asks(build: Build) -> None:
    done = build(
        f"RUN --device=vendor.com/dev=foo {SHOW}",
        "RUN test ! -e /dev/mine && test -z \"$FOO\"",
        allow="device",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("allow", ["", "device=vendor.com/dev=auto"])
def test_a_device_that_is_not_allowed(build: Build, allow: str) -> None:
    done = build("RUN --device=vendor.com/dev=foo true", allow=allow)
    assert done.returncode == 1
    assert "device vendor.com/dev=foo is requested by the build but not allowed" in done.stderr


@pytest.mark.parametrize("name", ["vendor.com/dev=auto", "special"])
def test_a_device_whose_file_allows_it(build: Build, name: str) -> None:
    done = build(f"RUN --device={name} env")
    assert done.returncode == 0, done.stderr
    assert "AUTO=yes" in done.stdout + done.stderr


def test_a_device_that_is_not_there(build: Build) -> None:
    assert build("RUN --device=vendor.com/dev=nope true").returncode == 0
    done = build("RUN --device=vendor.com/dev=nope,required true", allow="device")
    assert done.returncode == 1
    assert "required device 'vendor.com/dev=nope' is not registered" in done.stderr
    done = build("RUN --device=vendor.com/dev=foo,requird true", allow="device")
    assert done.returncode == 1
    assert "unexpected key 'requird' in 'requird' (did you mean required?)" in done.stderr


def test_all_devices_of_a_kind(build: Build) -> None:
    done = build("RUN --device=vendor.com/dev=* env", allow="device")
    assert done.returncode == 0, done.stderr
    assert "FOO=injected" in done.stdout + done.stderr
    assert "AUTO=yes" in done.stdout + done.stderr


def test_clients_see_the_devices(engine: RunningEngine) -> None:
    done = subprocess.run(
        ["docker", "buildx", "inspect"], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "DOCKER_HOST": engine.host},
    )  # fmt: skip
    words = done.stdout.split()
    assert words.index("vendor.com/dev=auto") < words.index("vendor.com/dev=foo")
    assert re.search(r"Automatically allowed:\s+true", done.stdout)
    assert re.search(r"Automatically allowed:\s+false", done.stdout)


def test_an_entitlement_that_the_engine_does_not_grant(build: Build) -> None:
    """dockerd 28.5.2 grants security.insecure only where daemon.json says so."""
    done = build("RUN true", allow="security.insecure")
    assert done.returncode == 1
    assert (
        "granting entitlement security.insecure is not allowed by build daemon configuration"
    ) in done.stderr


def test_an_entitlement_that_is_configured(build: Build, engine: RunningEngine) -> None:
    config = engine.root / "daemon.json"
    before = json.loads(config.read_text())
    config.write_text(json.dumps({**before, "builder": {"entitlements": {
        "security-insecure": True, "network-host": False}}}))  # fmt: skip
    engine.stop()
    engine.start()
    try:
        probe = "grep CapEff /proc/self/status; mount -t tmpfs x /mnt"
        done = build(f"RUN --security=insecure {probe}", allow="security.insecure")
        assert done.returncode == 0, done.stderr
        done = build("RUN true", allow="network.host")
        assert "granting entitlement network.host is not allowed" in done.stderr
    finally:
        config.write_text(json.dumps(before))
        engine.stop()
        engine.start()
