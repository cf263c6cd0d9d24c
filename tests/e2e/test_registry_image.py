"""``portside/registry`` run as people run ``registry:2``: data, certificates, users, restarts."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from enginekit import RunningEngine
from imagekit import certificate, htpasswd_line

Docker = Callable[..., "CompletedProcess[str]"]


class Served:
    """A registry in a container, published on a free loopback port."""

    def __init__(self, docker: Docker, name: str, tls: bool = False) -> None:
        self.docker, self.name, self.tls = docker, name, tls

    @property
    def host(self) -> str:
        return self.docker("port", self.name, "5000/tcp").stdout.split()[0]

    def ready(self) -> str:
        """Wait until it answers; its host and port."""
        host = self.host
        url = f"{'https' if self.tls else 'http'}://{host}/v2/"
        until = time.monotonic() + 30
        while True:
            try:
                # test certificates are self-signed
                urllib.request.urlopen(url, timeout=5, context=_unverified())
                return host
            except urllib.error.HTTPError:
                return host
            except OSError as err:
                if time.monotonic() > until:
                    pytest.fail(f"{err}: {self.docker('logs', self.name).stderr}")
                time.sleep(0.05)


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def serve(docker: Docker) -> Iterator[Callable[..., Served]]:
    """Run a registry with options of ``docker run``; removed with its anonymous volumes."""
    names: list[str] = []

    def start(*options: str, arguments: tuple[str, ...] = (), tls: bool = False) -> Served:
        name = f"registry-{len(names)}"
        names.append(name)
        docker(
            "run", "-d", "-p", "127.0.0.1::5000", "--name", name, *options,
            "portside/registry", *arguments,
        )  # fmt: skip
        served = Served(docker, name, tls)
        served.ready()
        return served

    docker("pull", "-q", "portside/registry")
    yield start
    for name in names:
        docker("rm", "-f", "-v", name)


@pytest.fixture
def forget(docker: Docker) -> Iterator[list[str]]:
    """Names of images to remove in the end."""
    names: list[str] = []
    yield names
    for name in names:
        docker("rmi", name, check=False)


def test_making_it_leaves_one_image(docker: Docker, serve: object) -> None:
    docker("rmi", "portside/registry")
    before = set(docker("images", "-aq", "--no-trunc").stdout.split())
    docker("pull", "portside/registry")
    made = set(docker("images", "-aq", "--no-trunc").stdout.split()) - before
    assert made == {docker("inspect", "-f", "{{.Id}}", "portside/registry").stdout.strip()}
    inspected = json.loads(docker("inspect", "portside/registry").stdout)[0]
    assert inspected["Config"]["ExposedPorts"] == {"5000/tcp": {}}
    assert inspected["Config"]["Volumes"] == {"/var/lib/registry": {}}


def test_push_remove_pull_run(
    docker: Docker, serve: Callable[..., Served], forget: list[str], tmp_path: Path
) -> None:
    """Data on a bind mount outlives the container."""
    data = tmp_path / "data"
    data.mkdir()
    host = serve("-v", f"{data}:/var/lib/registry").host
    name = f"{host}/some/app:1"
    forget.append(name)
    docker("tag", "portside/base", name)
    pushed = docker("push", name).stdout
    digest = pushed.rpartition("digest: ")[2].split()[0]
    docker("rmi", name)
    second = serve("-v", f"{data}:/var/lib/registry").host
    other = f"{second}/some/app@{digest}"
    forget.append(other)
    pulled = docker("pull", other).stdout
    assert f"Digest: {digest}" in pulled
    assert docker("run", "--rm", other, "echo", "pulled").stdout == "pulled\n"
    assert docker("search", f"{second}/some", "--format", "{{.Name}}").stdout.split() == [
        f"{second}/some/app"
    ]


def test_tls_and_users(
    docker: Docker,
    docker_env: dict[str, str],
    serve: Callable[..., Served],
    forget: list[str],
    tmp_path: Path,
) -> None:
    certificate(tmp_path / "certs")
    (tmp_path / "auth").mkdir()
    (tmp_path / "auth" / "htpasswd").write_text(htpasswd_line("joe", "secret"))
    registry = serve(
        "-v", f"{tmp_path}/certs:/certs:ro", "-v", f"{tmp_path}/auth:/auth:ro",
        "-e", "REGISTRY_AUTH=htpasswd", "-e", "REGISTRY_AUTH_HTPASSWD_REALM=Registry Realm",
        "-e", "REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd",
        "-e", "REGISTRY_HTTP_TLS_CERTIFICATE=/certs/cert.pem",
        "-e", "REGISTRY_HTTP_TLS_KEY=/certs/key.pem",
        tls=True,
    )  # fmt: skip
    name = f"{registry.host}/private/app"
    forget.append(name)
    docker("tag", "portside/base", name)
    refused = docker("push", name, check=False)
    assert refused.returncode == 1 and "no basic auth credentials" in refused.stderr
    wrong = docker("login", "-u", "joe", "--password-stdin", registry.host, input="no", check=False)
    assert wrong.returncode == 1 and "unauthorized" in wrong.stderr.lower()
    docker("login", "-u", "joe", "--password-stdin", registry.host, input="secret")
    try:
        docker("push", name)
        docker("rmi", name)
        assert "Downloaded newer image" in docker("pull", name).stdout
    finally:
        docker("logout", registry.host)
    denied = docker("pull", name, check=False)
    assert denied.returncode == 1 and "no basic auth credentials" in denied.stderr


def test_own_settings_file_and_collection(
    docker: Docker, serve: Callable[..., Served], forget: list[str], tmp_path: Path
) -> None:
    """Where other images have their settings and their command, this one has them, too."""
    settings = tmp_path / "config.yml"
    settings.write_text(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /data\n  delete:\n"
        "    enabled: true\nhttp:\n  addr: :5000\n"
    )
    registry = serve("-v", f"{settings}:/etc/docker/registry/config.yml")
    name = f"{registry.host}/app"
    forget.append(name)
    docker("tag", "portside/base", name)
    digest = docker("push", name).stdout.rpartition("digest: ")[2].split()[0]
    request = urllib.request.Request(
        f"http://{registry.host}/v2/app/manifests/{digest}", method="DELETE"
    )
    assert urllib.request.urlopen(request, timeout=10).status == 202
    said = docker(
        "exec", registry.name, "registry", "garbage-collect", "--dry-run",
        "/etc/docker/registry/config.yml",
    ).stdout  # fmt: skip
    assert said.startswith("would remove ")
    other = serve(
        "-v", f"{settings}:/etc/my.yml", "-e", "REGISTRY_STORAGE_DELETE_ENABLED=false",
        arguments=("/etc/my.yml",),
    )  # fmt: skip
    assert json.load(urllib.request.urlopen(f"http://{other.host}/v2/_catalog", timeout=10)) == {
        "repositories": []
    }


def test_survives_restart_and_kill(
    docker: Docker, serve: Callable[..., Served], forget: list[str]
) -> None:
    registry = serve()
    name = f"{registry.host}/kept"
    forget.append(name)
    docker("tag", "portside/base", name)
    docker("push", "-q", name)
    docker("kill", "-s", "KILL", registry.name)
    docker("start", registry.name)
    host = registry.ready()
    answer: Any = json.load(urllib.request.urlopen(f"http://{host}/v2/kept/tags/list", timeout=10))
    assert answer["tags"] == ["latest"]


def test_it_stops_quickly_and_cleanly(docker: Docker, serve: Callable[..., Served]) -> None:
    registry = serve()
    docker("stop", registry.name)
    code = docker("inspect", "-f", "{{.State.ExitCode}}", registry.name).stdout.strip()
    assert code == "0"


def test_skopeo_copies_in_and_out(
    docker: Docker, serve: Callable[..., Served], tmp_path: Path
) -> None:
    import shutil

    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    registry = serve()
    archive = tmp_path / "base.tar"
    docker("save", "-o", str(archive), "portside/base")
    target = f"docker://{registry.host}/copied:1"
    for command in (
        ["copy", "--dest-tls-verify=false", f"docker-archive:{archive}", target],
        ["copy", "--src-tls-verify=false", target, f"oci:{tmp_path}/layout:1"],
        ["inspect", "--tls-verify=false", target],
    ):
        done = subprocess.run(["skopeo", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "layout" / "index.json").exists()


def test_it_is_small(docker: Docker, serve: Callable[..., Served]) -> None:
    """No sources to compile at each start, no symbols."""
    assert int(docker("inspect", "-f", "{{.Size}}", "portside/registry").stdout) < 60_000_000
    files = docker(
        "run",
        "--rm",
        "--entrypoint",
        "find",
        "portside/registry",
        "/usr/local/lib",
        "-name",
        "*.py*",
    ).stdout.splitlines()
    assert len(files) > 300 and not [name for name in files if name.endswith(".py")]


@pytest.mark.parametrize("image", ["portside/registry", "portside/monitor"])
def test_it_stops_in_the_moment_it_has_started(
    docker: Docker, engine: RunningEngine, image: str
) -> None:
    """A signal that comes before the interpreter can handle one is not lost: a lost one ends in
    SIGKILL, and so in status 137."""
    docker("pull", "-q", image)
    name = docker("create", image).stdout.strip()
    try:
        for _ in range(8):
            engine.json("POST", f"/containers/{name}/start")
            engine.json("POST", f"/containers/{name}/stop?t=30")
            assert engine.json("GET", f"/containers/{name}/json")["State"]["ExitCode"] == 0
    finally:
        docker("rm", "-f", "-v", name)
