"""Registries and archives that are broken or hostile: a clear error, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from enginekit import RunningEngine, docker_runner
from fakeregistry import Fault, served
from imagekit import build_image, certificate

Docker = Callable[..., "CompletedProcess[str]"]
BIG = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    """An engine that does not try again and again."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    running = RunningEngine("--max-download-attempts", "1")
    running.start()
    running.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    yield running
    running.remove()


@pytest.fixture(scope="module")
def docker(
    engine: RunningEngine, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    config = str(tmp_path_factory.mktemp("docker-config"))
    environment = {**os.environ, "DOCKER_HOST": engine.host, "DOCKER_CONFIG": config}
    return docker_runner(docker_command, environment)


def stored(engine: RunningEngine) -> tuple[int, int, set[str]]:
    """What images leave: names, layers, blobs that nothing needs. Part of a download that the
    next try continues with is meant to stay."""
    images = engine.json("GET", "/images/json?all=1")
    problems = engine.json("POST", "/portside/check")["problems"]
    layers = sum(1 for path in (engine.data_root / "layers").glob("*"))
    return len(images), layers, {item["subject"] for item in problems if item["kind"] != "leftover"}


def nothing_left(engine: RunningEngine, before: tuple[int, int, set[str]]) -> bool:
    """The store is as before once its collector has run."""
    engine.json("POST", "/images/prune")
    deadline = time.monotonic() + 10
    while stored(engine) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    return stored(engine) == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("lie"), "verification failed"),
        (Fault("truncate", at=1000), "broke off"),
        (Fault("endless"), "longer than"),
        (Fault("status", status=500), "500"),
        (Fault("status", status=404), "not found"),
    ],
    ids=["wrong digest", "truncated", "endless", "failing", "missing"],
)
def test_bad_blobs(engine: RunningEngine, docker: Docker, fault: Fault, said: str) -> None:
    with served() as registry:
        image = build_image([{"x": BIG}], compression="")
        layer = max(image.blobs, key=lambda key: len(image.blobs[key]))
        registry.add("app", "latest", image)
        registry.ranges = False
        registry.faults[layer] = fault
        before = stored(engine)
        done = docker("run", "--rm", f"{registry.host}/app", "true", check=False)
        assert (done.returncode, said in done.stderr) == (125, True), done
        assert nothing_left(engine, before)
        registry.faults.clear()
        docker("pull", "-q", f"{registry.host}/app")
        docker("rmi", f"{registry.host}/app")


def test_a_lying_manifest(engine: RunningEngine, docker: Docker) -> None:
    with served() as registry:
        registry.add("app", "latest", build_image([{"x": b"1"}]))
        registry.faults["latest"] = Fault("lie")
        before = stored(engine)
        done = docker("pull", f"{registry.host}/app", check=False)
        assert done.returncode == 1
        assert "verification failed" in done.stderr
        assert nothing_left(engine, before)


@contextmanager
def handshakes(address: str, context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that does no more than shake hands; its port."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with suppress(OSError), context.wrap_socket(peer, server_side=True) as secured:
                        secured.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_certificate_that_nobody_vouches_for(
    engine: RunningEngine, docker: Docker, tmp_path: Path
) -> None:
    """Loopback would be trusted; the bridge's address is not."""
    address = engine.subnet.partition("/")[0]
    cert, key = certificate(tmp_path, host=address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    before = stored(engine)
    with handshakes(address, context) as port:
        done = docker("run", "--rm", f"{address}:{port}/app", "true", check=False)
    assert done.returncode == 125
    assert "certificate" in done.stderr, done.stderr
    assert nothing_left(engine, before)


def test_a_registry_whose_name_is_unknown(docker: Docker) -> None:
    done = docker("pull", "no-such-host.invalid/app", check=False)
    assert done.returncode == 1
    assert "no such host" in done.stderr, done.stderr


def hostile(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info, content


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that hostile archives aim at."""
    with tempfile.TemporaryDirectory(prefix="outside-", dir="/tmp") as directory:
        path = Path(directory)
        (path / "secret").write_text("secret")
        yield path


def attacks(target: Path) -> dict[str, bytes]:
    up = "../" * 40 + str(target).lstrip("/")
    return {
        "climbs": hostile(entry(f"{up}/evil", b"x")),
        "absolute": hostile(entry(f"{target}/evil", b"x")),
        "through a link": hostile(
            entry("door", kind=tarfile.SYMTYPE, link=str(target)), entry("door/evil", b"x")
        ),
        "through a climbing link": hostile(
            entry("door", kind=tarfile.SYMTYPE, link=up), entry("door/evil", b"x")
        ),
        "over a link": hostile(
            entry("evil", kind=tarfile.SYMTYPE, link=f"{target}/secret"), entry("evil", b"x")
        ),
        "hard link": hostile(
            entry("evil", kind=tarfile.LNKTYPE, link=f"{target}/secret"), entry("evil", b"x")
        ),
        "climbing hard link": hostile(
            entry("evil", kind=tarfile.LNKTYPE, link=f"{up}/secret"),
        ),
        "link in a link": hostile(
            entry("a", kind=tarfile.SYMTYPE, link="/proc/self/root"),
            entry("a/b", kind=tarfile.SYMTYPE, link=str(target)),
            entry("a/b/evil", b"x"),
        ),
        "whiteout": hostile(entry(f"{up}/.wh.secret")),
    }


def untouched(outside: Path) -> bool:
    secret = outside / "secret"
    return (
        [path.name for path in outside.iterdir()] == ["secret"]
        and secret.read_text() == "secret"
        and secret.stat().st_nlink == 1
    )


@pytest.mark.parametrize("name", sorted(attacks(Path("/x"))))
def test_hostile_archives_stay_inside(
    engine: RunningEngine, docker: Docker, outside: Path, name: str
) -> None:
    """As a layer (import) and as files copied into a container."""
    data = attacks(outside)[name]
    before = stored(engine)
    docker("import", "-", "test/hostile", input=data, text=False, check=False)
    assert untouched(outside)
    docker("rmi", "-f", "test/hostile", check=False)
    made = docker("create", "portside/base", "true").stdout.strip()
    try:
        headers = {"Content-Type": "application/x-tar"}
        engine.request("PUT", f"/containers/{made}/archive?path=/", data, headers)
        assert untouched(outside)
    finally:
        docker("rm", "-f", made)
    assert nothing_left(engine, before)


def test_archives_that_are_no_images(engine: RunningEngine, docker: Docker) -> None:
    before = stored(engine)
    manifest = json.dumps([{"Config": "../../etc/passwd", "Layers": ["/etc/passwd"]}]).encode()
    for data, said in (
        (b"garbage", "truncated archive"),
        (hostile(entry("nothing", b"x")), "manifest"),
        (hostile(entry("manifest.json", b"{")), "manifest.json"),
        (hostile(entry("manifest.json", manifest)), "passwd"),
    ):
        done = docker("load", input=data, text=False, check=False)
        assert done.returncode == 1
        assert said in done.stderr.decode()
        assert nothing_left(engine, before)
