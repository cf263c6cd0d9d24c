"""Hostile contexts, Dockerfiles and clients of ``portside build``: nothing outside the context or
the image is read or written, nothing stays behind."""

from __future__ import annotations

import array
import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

from portside.model import build_frames as wire

BASE = "portside/base"
Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(docker: Any, docker_env: dict[str, str], tmp_path: Path) -> Build:
    def run(place: Path | str, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "portside", "build", *flags, str(place)], env=docker_env,
            capture_output=True, text=True, timeout=180, cwd=tmp_path,
        )  # fmt: skip

    return run


def context(tmp_path: Path, text: str) -> Path:
    place = tmp_path / "context"
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text(text)
    return place


def test_links_swapped_during_a_copy_lead_nowhere(
    build: Build, docker: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("of the host")
    place = context(tmp_path, f"FROM {BASE}\nCOPY d /d\nCOPY d/f /f\nCOPY l* /l/\n")
    (place / "link").symlink_to(outside / "f")
    real, link = place / "real", place / "other"
    real.mkdir()
    (real / "f").write_text("of the context")
    link.symlink_to(outside)
    (place / "d").mkdir()
    (place / "d" / "f").write_text("of the context")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for source in (link, real):
                os.rename(place / "d", place / "away")
                os.rename(source, place / "d")
                os.rename(place / "d", source)
                os.rename(place / "away", place / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(6):
            done = build(place, "--no-cache", "-q", "-t", f"swapped:{number}")
            if done.returncode == 0:
                said = docker("run", "--rm", f"swapped:{number}", "sh", "-c", "cat /d/* /f /l/*")
                assert "of the host" not in said.stdout
            assert "of the host" not in done.stderr
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "instruction",
    [
        "COPY ../outside /x", "COPY /../outside /x", "COPY link /x", "COPY up/outside /x",
        "ADD ../outside /x", "RUN --mount=type=bind,source=../outside,target=/x cat /x/*",
        "RUN --mount=type=bind,source=up/outside,target=/x cat /x/*",
        "RUN --mount=type=bind,source=link,target=/x cat /x/*",
    ],
)  # fmt: skip
def test_nothing_outside_the_context_is_read(
    build: Build, docker: Any, tmp_path: Path, instruction: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("of the host")
    place = context(tmp_path, f"FROM {BASE}\n{instruction}\n")
    (place / "link").symlink_to(outside)
    (place / "up").symlink_to("..")
    done = build(place, "-t", "escape", "--progress=plain", "--no-cache")
    assert "of the host" not in done.stderr
    if done.returncode == 0:
        said = docker("run", "--rm", "escape", "sh", "-c", "cat /x /x/* 2>/dev/null; true")
        assert "of the host" not in said.stdout


def test_results_are_not_written_through_links(build: Build, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = context(
        tmp_path, f"FROM {BASE} AS b\nRUN mkdir -p /r/dir && echo x > /r/dir/f && ln -s /etc /r/e\n"
        "FROM scratch\nCOPY --from=b /r /\n",
    )  # fmt: skip
    target = tmp_path / "target"
    target.mkdir()
    (target / "dir").symlink_to(outside)
    build(place, "-o", str(target))
    assert list(outside.iterdir()) == []


def test_what_looks_like_a_flag_is_none(build: Build, docker: Any, tmp_path: Path) -> None:
    place = context(tmp_path, f'FROM {BASE}\nCOPY ["--help", "-rf", "/d/"]\nCMD ls -1 /d\n')
    for name in ("--help", "-rf"):
        (place / name).write_text(name)
    done = build(place, "-t", "flags")
    assert done.returncode == 0, done.stderr
    assert docker("run", "--rm", "flags").stdout == "--help\n-rf\n"
    marker = tmp_path / "pwned"
    for url in (f"https://x.git#--upload-pack=touch {marker}", "ssh://-oProxyCommand=x/y.git",
                f"git://x/y.git#-c:{marker}"):  # fmt: skip
        assert build(url).returncode == 1
    assert not marker.exists()


# -- the connection itself ----------------------------------------------------------------------


def upgraded(engine: RunningEngine, request: dict[str, Any]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(engine.socket))
    body = json.dumps(request).encode()
    head = (
        "POST /portside/build HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        f"Upgrade: {wire.PROTOCOL}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return sock


def greet(sock: socket.socket, descriptors: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    sock.sendmsg([wire.frame(wire.HELLO, 0)], [rights])


def until_closed(sock: socket.socket) -> bytes:
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    sock.close()
    return found


REQUEST = {"dockerfile": base64.b64encode(b"FROM scratch\nCOPY f /\n").decode(),
           "contexts": {"context": {"directory": 0}}}  # fmt: skip


def test_descriptors_are_bounded_directories_and_given_back(
    docker: Any, engine: RunningEngine, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("x")
    open_ = Path(f"/proc/{engine.pid}/fd")
    directory, file = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "f", os.O_RDONLY)

    def ours() -> int:
        return sum(os.path.realpath(each).startswith(str(tmp_path)) for each in open_.iterdir()
                   if each.is_symlink())  # fmt: skip

    try:
        for descriptors, works in ([[directory], True], [[file], False],
                                   [[directory] * (wire.MAX_FDS + 1), False],
                                   [[directory] * 200, False]):  # fmt: skip
            sock = upgraded(engine, REQUEST)
            greet(sock, descriptors)  # type: ignore[arg-type]
            assert (b'"metadata"' in until_closed(sock)) is works
        for number in range(3):  # a client that leaves at once, in the middle, or says nonsense
            sock = upgraded(engine, REQUEST)
            if number:
                greet(sock, [directory])
            if number == 2:
                sock.sendall(b"\xff" * 64)
            sock.close()
        for _ in range(100):
            if not ours():
                break
            threading.Event().wait(0.1)
        assert ours() == 0
    finally:
        os.close(directory)
        os.close(file)


def test_sizes_are_bounded(build: Build, docker: Any, tmp_path: Path) -> None:
    place = context(tmp_path, f"FROM {BASE}\n" + "#" * (5 << 20))
    done = build(place)
    assert done.returncode == 1 and "larger than" in done.stderr
    place = context(tmp_path, f"FROM {BASE}\nRUN --mount=type=secret,id=s cat /run/secrets/s\n")
    (tmp_path / "s").write_bytes(b"x" * (501 << 10))
    done = build(place, "--secret", f"id=s,src={tmp_path}/s")
    assert done.returncode == 1 and "too big" in done.stderr
