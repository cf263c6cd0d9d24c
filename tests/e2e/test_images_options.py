"""Engines with other ways to keep and reach images: vfs, mirrors, proxies, certificates."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginekit import RunningEngine, docker_runner
from imagekit import build_image, certificate, docker_registry, free_port
from peerkit import Docker, publish


class Proxy(http.server.BaseHTTPRequestHandler):
    """A forward proxy for plain HTTP that sends every host's requests to one registry."""

    protocol_version = "HTTP/1.1"
    target = ""
    asked: list[str] = []  # noqa: RUF012 # one list for all connections is meant

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("://")[2].partition("/")[2]
        request = urllib.request.Request(f"http://{self.target}/{path}", method=self.command)
        for name in ("Accept", "Range"):
            if name in self.headers:
                request.add_header(name, self.headers[name])
        try:
            answer = urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as err:
            answer = err
        with answer:
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            size = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", size or "0")
            self.end_headers()
            self.wfile.write(data)

    do_HEAD = do_GET

    def do_CONNECT(self) -> None:
        self.asked.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        publish(host, "library/mirrored", "latest", build_image([{"etc/from": b"mirror"}]))
        publish(host, "team/app", "1", build_image([{"etc/from": b"proxy"}]))
        yield host


@pytest.fixture(scope="module")
def proxy(registry: str) -> Iterator[str]:
    Proxy.target = registry
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def other(
    registry: str, proxy: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """An engine with vfs, a mirror of the hub, a proxy, and certificates of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    running = RunningEngine(
        "--storage-driver", "vfs", "--registry-mirror", f"http://{registry}",
        "--certs-dir", str(tmp_path_factory.mktemp("certs.d")),
        "--insecure-registry", "registry.example",
        "--upstream-mirror", "upstream.example=http://127.0.0.1:1",
        "--upstream-mirror", f"upstream.example=http://{registry}",
    )  # fmt: skip
    proxies = {"http-proxy": proxy, "https-proxy": proxy, "no-proxy": "10.0.0.0/8,example.org"}
    running._config().write_text(json.dumps({"proxies": proxies}))
    running.start()
    yield running
    running.remove()


@pytest.fixture(scope="module")
def run(
    other: RunningEngine, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    config = tmp_path_factory.mktemp("other-config")
    env = {**os.environ, "DOCKER_HOST": other.host, "DOCKER_CONFIG": str(config)}
    return docker_runner(docker_command, env)


def test_a_link_in_a_volume_leads_into_no_read_only_root_on_vfs(
    run: Docker, other: RunningEngine, tmp_path: Path
) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/link").symlink_to("/etc")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("written"))
    run("pull", "-q", "portside/base")
    name = run(
        "create", "--read-only", "-v", f"{tmp_path}/v:/v", "portside/base", "true"
    ).stdout.strip()
    try:
        put = f"/containers/{name}/archive?path="
        status, _, data = other.request("PUT", f"{put}/v/link", packed.getvalue())
        assert status >= 400 and b"read-only" in data
        assert other.request("HEAD", f"{put}/etc/written")[0] == 404
        assert other.request("PUT", f"{put}/v", packed.getvalue())[0] == 200
        assert (tmp_path / "v/written").exists()
        assert other.request("HEAD", f"{put}/v/written")[0] == 200
    finally:
        run("rm", "-f", name)


def test_containers_on_vfs(run: Docker, tmp_path: Path) -> None:
    """Copies instead of an overlay: the same life, the same answers."""
    assert run("info", "-f", "{{.Driver}}").stdout.strip() == "native"
    script = "echo x > /etc/new; rm -r /home; mkdir /opt/d; chown 5:6 /opt/d; ln -s x /opt/l"
    run("run", "--name", "vbox", "portside/base", "sh", "-c", script)
    changes = set(run("diff", "vbox").stdout.split("\n"))
    assert {"A /etc/new", "D /home", "A /opt/d", "A /opt/l", "C /etc", "C /opt"} <= changes
    run("commit", "vbox", "vbox:committed")
    said = run(
        "run", "--rm", "vbox:committed", "sh", "-c", "cat /etc/new; ls /; stat -c %u:%g /opt/d"
    )
    lines = said.stdout.split("\n")
    assert lines[0] == "x" and "home" not in lines and "5:6" in lines
    run("cp", "vbox:/etc/new", str(tmp_path / "copied"))
    assert (tmp_path / "copied").read_text() == "x\n"
    run("cp", str(tmp_path / "copied"), "vbox:/etc/again")
    assert "etc/again" in subprocess.run(
        ["tar", "-t"], input=run("export", "vbox", text=False).stdout, capture_output=True
    ).stdout.decode()  # fmt: skip
    size = json.loads(run("inspect", "-s", "vbox").stdout)[0]
    assert 0 < size["SizeRw"] < 100 and size["SizeRootFs"] > 1 << 20
    run("rm", "vbox")
    run("rmi", "vbox:committed")


def test_vfs_survives_a_restart(other: RunningEngine, run: Docker) -> None:
    run("run", "-d", "--name", "lasting", "portside/base", "sleep", "1000")
    run("exec", "lasting", "touch", "/mark")
    other.restart()
    run("exec", "lasting", "test", "-e", "/mark")
    run("rm", "-f", "lasting")


def test_the_mirror_is_asked_for_the_hub(run: Docker, registry: str) -> None:
    assert "Downloaded newer image" in run("pull", "mirrored").stdout
    found = json.loads(run("image", "inspect", "mirrored").stdout)[0]
    assert found["RepoTags"] == ["mirrored:latest"]
    assert found["RepoDigests"][0].startswith("mirrored@sha256:")
    missing = run("pull", "not-mirrored", check=False)
    assert missing.returncode == 1 and "registry-1.docker.io" in missing.stderr


def test_mirrors_of_any_registry(run: Docker) -> None:
    """The first that has it; the registry itself does not exist."""
    run("pull", "upstream.example/team/app:1")
    found = json.loads(run("image", "inspect", "upstream.example/team/app:1").stdout)[0]
    assert found["RepoDigests"][0].startswith("upstream.example/team/app@sha256:")


def test_the_proxy_is_used_for_others(run: Docker, proxy: str) -> None:
    Proxy.asked.clear()
    run("pull", "registry.example/team/app:1")
    assert "CONNECT registry.example:443" in Proxy.asked
    assert "http://registry.example/v2/" in Proxy.asked
    assert any("/v2/team/app/blobs/sha256:" in path for path in Proxy.asked)
    said = json.loads(run("info", "-f", "{{json .}}").stdout)
    assert said["HttpProxy"] == proxy


@contextlib.contextmanager
def tls_registry(
    address: str, root: Path, certs: tuple[Path, Path], authority: Path | None = None
) -> Iterator[str]:
    """Our registry with TLS on an address that is not loopback."""
    port = free_port()
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": f"{address}:{port}",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root),
        "REGISTRY_HTTP_TLS_CERTIFICATE": str(certs[0]),
        "REGISTRY_HTTP_TLS_KEY": str(certs[1]),
    }
    if authority is not None:
        environment["REGISTRY_HTTP_TLS_CLIENTCAS"] = f"[{authority}]"
    command = [sys.executable, "-m", "portside.registry.server", "serve"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening" in line:
                break
        else:
            pytest.fail("the registry did not start")
        yield f"{address}:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def test_certificates_by_registry(other: RunningEngine, run: Docker, tmp_path: Path) -> None:
    """certs.d: an authority for the server, then a certificate of our own for it."""
    address = other.subnet.partition("/")[0]
    server = certificate(tmp_path / "server", address)
    client = certificate(tmp_path / "client", address)
    directory = Path(other.options[other.options.index("--certs-dir") + 1])
    with tls_registry(address, tmp_path / "data", server) as host:
        name = f"{host}/app"
        run("tag", "portside/base", name)
        refused = run("push", name, check=False)
        assert refused.returncode == 1 and "unknown authority" in refused.stderr
        (directory / host).mkdir()
        (directory / host / "ca.crt").write_bytes(server[0].read_bytes())
        run("push", name)
        run("rmi", name)
        run("pull", name)
        run("rmi", name)
    with tls_registry(address, tmp_path / "data", server, client[0]) as host:
        name = f"{host}/app"
        (directory / host).mkdir()
        (directory / host / "ca.crt").write_bytes(server[0].read_bytes())
        assert run("pull", name, check=False).returncode == 1
        (directory / host / "client.cert").write_bytes(client[0].read_bytes())
        (directory / host / "client.key").write_bytes(client[1].read_bytes())
        run("pull", name)
        run("rmi", name)


def test_search_without_a_network_fails_at_once(run: Docker) -> None:
    begun = time.monotonic()
    done = run("search", "anything", check=False)
    assert done.returncode == 1 and "proxyconnect" in done.stderr
    assert time.monotonic() - begun < 30
