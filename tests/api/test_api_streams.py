"""Hijacked connections, multiplexed frames, websockets, waiting: the bytes on the socket."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"


@pytest.fixture(autouse=True)
def image(engine: RunningEngine, base: str) -> str:
    return base


def create(engine: RunningEngine, command: list[str], **config: Any) -> str:
    body = {"Image": BASE, "Cmd": command, **config}
    return str(engine.json("POST", "/containers/create", body, 201)["Id"])


def start(engine: RunningEngine, name: str) -> None:
    engine.json("POST", f"/containers/{name}/start", status=204)


def remove(engine: RunningEngine, name: str) -> None:
    engine.request("DELETE", f"/containers/{name}?force=1&v=1")


@pytest.fixture
def running(engine: RunningEngine) -> Iterator[str]:
    """A container that runs until the test is over."""
    name = create(engine, ["sleep", "1000"], OpenStdin=True)
    start(engine, name)
    yield name
    remove(engine, name)


class Stream:
    """A hijacked connection."""

    def __init__(
        self,
        engine: RunningEngine,
        path: str,
        body: Any = None,
        upgrade: bool = True,
        early: bytes = b"",
        lines: str = "",
        method: str = "POST",
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(engine.socket))
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(data)}\r\n{lines}"
        if data:
            head += "Content-Type: application/json\r\n"
        if upgrade:
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        self.sock.sendall(head.encode() + b"\r\n" + data + early)
        self.head = self._until(b"\r\n\r\n").decode()

    def _until(self, end: bytes) -> bytes:
        found = b""
        while not found.endswith(end):
            piece = self.sock.recv(1)
            assert piece, found
            found += piece
        return found

    def exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self.sock.recv(count - len(found))
            if not piece:
                break
            found += piece
        return found

    def rest(self) -> bytes:
        found = b""
        while piece := self.sock.recv(65536):
            found += piece
        return found

    def frames(self) -> dict[int, bytes]:
        """Everything until the end, by stream."""
        found: dict[int, bytes] = {1: b"", 2: b""}
        while head := self.exactly(8):
            kind, size = struct.unpack(">BxxxL", head)
            found[kind] += self.exactly(size)
        return found


def test_attach_with_upgrade_frames_both_streams(engine: RunningEngine) -> None:
    name = create(engine, ["sh", "-c", "echo out; echo err >&2"])
    stream = Stream(engine, f"/v1.51/containers/{name}/attach?stream=1&stdout=1&stderr=1")
    assert stream.head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Content-Type: application/vnd.docker.multiplexed-stream" in stream.head
    start(engine, name)
    assert stream.frames() == {1: b"out\n", 2: b"err\n"}
    remove(engine, name)


def test_attach_without_upgrade_is_the_old_style(engine: RunningEngine) -> None:
    name = create(engine, ["echo", "old"])
    path = f"/v1.41/containers/{name}/attach?stream=1&stdout=1"
    stream = Stream(engine, path, upgrade=False)
    assert stream.head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Content-Type: application/vnd.docker.raw-stream" in stream.head
    start(engine, name)
    assert stream.frames()[1] == b"old\n"
    remove(engine, name)


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_half_close_ends_stdin_and_bytes_are_intact(engine: RunningEngine, size: int) -> None:
    name = create(engine, ["cat"], OpenStdin=True, StdinOnce=True, AttachStdin=True)
    stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    start(engine, name)
    data = os.urandom(size)

    def send() -> None:
        stream.sock.sendall(data)
        stream.sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert stream.frames()[1] == data
    sender.join()
    remove(engine, name)


def test_what_a_client_sends_too_early_is_not_lost(engine: RunningEngine) -> None:
    name = create(engine, ["cat"], OpenStdin=True, StdinOnce=True)
    path = f"/containers/{name}/attach?stream=1&stdin=1&stdout=1"
    stream = Stream(engine, path, early=b"hasty ")
    stream.sock.sendall(b"words")
    stream.sock.shutdown(socket.SHUT_WR)
    start(engine, name)
    assert stream.frames()[1] == b"hasty words"
    remove(engine, name)


def test_a_terminal_is_raw_and_detaches_by_keys(engine: RunningEngine) -> None:
    name = create(engine, ["cat"], OpenStdin=True, Tty=True)
    stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    assert "raw-stream" in stream.head
    start(engine, name)
    stream.sock.sendall(b"hi\r")
    assert stream.exactly(4) == b"hi\r\n"
    stream.sock.sendall(b"\x10\x11")
    stream.rest()
    assert engine.json("GET", f"/containers/{name}/json")["State"]["Running"]
    again = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&detachKeys=ctrl-a,x")
    again.sock.sendall(b"\x01x")
    again.rest()
    assert engine.json("GET", f"/containers/{name}/json")["State"]["Running"]
    remove(engine, name)


def test_two_clients_see_the_same(engine: RunningEngine) -> None:
    name = create(engine, ["sh", "-c", "for i in 1 2 3; do echo $i; done"])
    path = f"/containers/{name}/attach?stream=1&stdout=1"
    streams = [Stream(engine, path) for _ in range(2)]
    start(engine, name)
    assert [stream.frames()[1] for stream in streams] == [b"1\n2\n3\n"] * 2
    remove(engine, name)


def test_attach_replays_the_log(engine: RunningEngine) -> None:
    name = create(engine, ["sh", "-c", "echo before; cat"], OpenStdin=True, StdinOnce=True)
    start(engine, name)
    while b"before" not in engine.request("GET", f"/containers/{name}/logs?stdout=1")[2]:
        time.sleep(0.01)
    stream = Stream(engine, f"/containers/{name}/attach?logs=1&stream=1&stdin=1&stdout=1")
    stream.sock.sendall(b"after\n")
    stream.sock.shutdown(socket.SHUT_WR)
    assert stream.frames()[1] == b"before\nafter\n"
    remove(engine, name)


def test_wait_sends_its_head_before_the_start(engine: RunningEngine) -> None:
    name = create(engine, ["sh", "-c", "exit 9"])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(engine.socket))
        sock.sendall(
            f"POST /containers/{name}/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n".encode()
        )
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 200 OK")
        start(engine, name)
        data = head.partition(b"\r\n\r\n")[2]
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(4096)
    assert b'{"StatusCode":9}' in data
    remove(engine, name)


def test_wait_conditions(engine: RunningEngine) -> None:
    name = create(engine, ["true"])
    assert engine.json("POST", f"/containers/{name}/wait")["StatusCode"] == 0
    assert engine.request("POST", f"/containers/{name}/wait?condition=never")[0] == 400
    found: list[Any] = []
    waiter = threading.Thread(
        target=lambda: found.append(
            engine.json("POST", f"/containers/{name}/wait?condition=removed")
        )
    )
    waiter.start()
    time.sleep(0.2)
    start(engine, name)
    time.sleep(0.3)
    assert waiter.is_alive()
    remove(engine, name)
    waiter.join(20)
    assert found == [{"StatusCode": 0}]


def exec_in(engine: RunningEngine, name: str, command: list[str], **config: Any) -> str:
    body = {"Cmd": command, "AttachStdout": True, "AttachStderr": True, **config}
    return str(engine.json("POST", f"/containers/{name}/exec", body, 201)["Id"])


def test_exec_streams_and_exit_codes(engine: RunningEngine) -> None:
    name = create(engine, ["sleep", "100"])
    start(engine, name)
    made = exec_in(engine, name, ["sh", "-c", "echo o; echo e >&2; exit 5"])
    stream = Stream(engine, f"/exec/{made}/start", {"Detach": False})
    assert stream.head.startswith("HTTP/1.1 101 ")
    assert stream.frames() == {1: b"o\n", 2: b"e\n"}
    found = engine.json("GET", f"/exec/{made}/json")
    assert (found["Running"], found["ExitCode"]) == (False, 5)
    missing = exec_in(engine, name, ["no-such-command"])
    text = Stream(engine, f"/exec/{missing}/start", {"Detach": False}).frames()[1]
    assert b"executable file not found" in text
    assert engine.json("GET", f"/exec/{missing}/json")["ExitCode"] == 127
    typed = exec_in(engine, name, ["cat"], AttachStdin=True)
    stream = Stream(engine, f"/exec/{typed}/start", {"Detach": False})
    stream.sock.sendall(b"typed")
    stream.sock.shutdown(socket.SHUT_WR)
    assert stream.frames()[1] == b"typed"
    status, _, data = engine.request("POST", f"/exec/{typed}/start", {"Detach": False})
    assert status == 409, data
    remove(engine, name)


def test_exec_needs_a_running_container(engine: RunningEngine) -> None:
    name = create(engine, ["true"])
    status, _, data = engine.request("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
    assert status == 409
    assert json.loads(data)["message"] == f"container {name} is not running"
    assert engine.request("POST", f"/containers/{name}/exec", {"Cmd": []})[0] == 400
    remove(engine, name)


def test_many_execs_at_once(engine: RunningEngine) -> None:
    name = create(engine, ["sleep", "100"])
    start(engine, name)
    made = [exec_in(engine, name, ["echo", str(number)]) for number in range(20)]
    streams = [Stream(engine, f"/exec/{one}/start", {"Detach": False}) for one in made]
    assert [s.frames()[1] for s in streams] == [b"%d\n" % number for number in range(20)]
    remove(engine, name)


def test_resize(engine: RunningEngine) -> None:
    name = create(engine, ["sh", "-c", "read x; stty size"], OpenStdin=True, Tty=True)
    stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    assert engine.request("POST", f"/containers/{name}/resize?h=1&w=1")[0] == 409
    start(engine, name)
    assert engine.request("POST", f"/containers/{name}/resize?h=33&w=44")[0] == 200
    assert engine.request("POST", f"/containers/{name}/resize?h=x&w=44")[0] == 400
    stream.sock.sendall(b"\r")
    assert b"33 44" in stream.rest()
    remove(engine, name)


def test_logs_follow_ends_with_the_container(engine: RunningEngine) -> None:
    script = "for i in $(seq 50); do echo $i; done; sleep 0.3; echo end; echo err >&2"
    name = create(engine, ["sh", "-c", script])
    start(engine, name)
    _, headers, data = engine.request("GET", f"/v1.51/containers/{name}/logs?follow=1&stdout=1")
    assert headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    lines = [part[8:] for part in data.split(b"\n") if part]
    assert lines == [b"%d" % n for n in range(1, 51)] + [b"end"]
    _, _, tail = engine.request("GET", f"/containers/{name}/logs?stdout=1&stderr=1&tail=2")
    assert b"end\n" in tail
    assert b"err\n" in tail
    assert b"50" not in tail
    _, _, stamped = engine.request("GET", f"/containers/{name}/logs?stdout=1&timestamps=1&tail=2")
    stamp = stamped[8:].split(b" ")[0]
    assert len(stamp) == len("2024-01-01T00:00:00.000000000Z")
    _, _, none = engine.request("GET", f"/containers/{name}/logs?stdout=1&since=9999999999")
    assert none == b""
    assert engine.request("GET", f"/containers/{name}/logs")[0] == 400
    remove(engine, name)


def test_websocket_attach(engine: RunningEngine) -> None:
    name = create(engine, ["cat"], OpenStdin=True, StdinOnce=True)
    start(engine, name)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(engine.socket))
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /containers/{name}/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        sock.sendall(b"\x82\x85" + bytes(4) + b"hello")
        assert sock.recv(7) == b"\x82\x05hello"
        sock.sendall(b"\x88\x80" + bytes(4))
        assert sock.recv(4) == b"\x88\x02\x03\xe8"
    remove(engine, name)


def test_events_arrive_live(engine: RunningEngine) -> None:
    found: list[bytes] = []
    name = create(engine, ["true"])
    filters = json.dumps({"container": {name: True}, "event": {"start": True, "die": True}})
    from urllib.parse import quote

    since = time.time()
    until = since + 3

    def listen() -> None:
        path = f"/events?until={until:.9f}&since={since:.9f}&filters={quote(filters)}"
        found.append(engine.request("GET", path)[2])

    listener = threading.Thread(target=listen)
    listener.start()
    start(engine, name)
    listener.join(20)
    actions = [json.loads(line)["Action"] for line in found[0].splitlines()]
    assert actions == ["start", "die"]
    past = engine.request("GET", f"/events?since=0&until={until:.9f}&filters={quote(filters)}")[2]
    assert [json.loads(line)["Action"] for line in past.splitlines()] == ["start", "die"]
    remove(engine, name)


# -- what dockerd 28.5.2 answers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("created", "started", "kind", "framed"),
    [
        (False, True, "raw-stream", False),
        (True, False, "multiplexed-stream", True),
        (True, True, "raw-stream", False),
        (False, False, "multiplexed-stream", True),
    ],
)
def test_an_exec_is_framed_as_its_start_says(
    engine: RunningEngine, running: str, created: bool, started: bool, kind: str, framed: bool
) -> None:
    made = exec_in(engine, running, ["sh", "-c", "sleep 0.2; echo out"], Tty=created)
    stream = Stream(engine, f"/exec/{made}/start", {"Tty": started, "ConsoleSize": [20, 30]})
    assert f"Content-Type: application/vnd.docker.{kind}\r\n" in stream.head
    line = b"out\r\n" if created else b"out\n"
    assert stream.rest() == (struct.pack(">BxxxL", 1, len(line)) if framed else b"") + line


@pytest.mark.parametrize("size", [[1], [1, 2, 3], [0, 0]])
def test_a_console_size_without_a_terminal_is_not_looked_at(
    engine: RunningEngine, running: str, size: list[int]
) -> None:
    made = exec_in(engine, running, ["true"], ConsoleSize=size)
    body = {"Detach": True, "Tty": False, "ConsoleSize": size}
    assert engine.request("POST", f"/exec/{made}/start", body)[0] == 200


@pytest.mark.parametrize(
    ("lines", "status", "kind"),
    [
        ("Upgrade: tcp\r\n", "101 UPGRADED", "multiplexed-stream"),
        ("Upgrade: other\r\n", "101 UPGRADED", "multiplexed-stream"),
        ("Connection: close, upgrade\r\nUpgrade: TCP\r\n", "101 UPGRADED", "multiplexed-stream"),
        ("Connection: Upgrade\r\n", "200 OK", "raw-stream"),
        ("", "200 OK", "raw-stream"),
    ],
)
def test_who_is_upgraded_and_what_the_stream_is_called(
    engine: RunningEngine, running: str, lines: str, status: str, kind: str
) -> None:
    made = exec_in(engine, running, ["echo", "hi"])
    for path, body in (
        (f"/exec/{made}/start", {}),
        (f"/containers/{running}/attach?stream=1&stdout=1", None),
    ):
        stream = Stream(engine, path, body, upgrade=False, lines=lines)
        assert stream.head.startswith(f"HTTP/1.1 {status}\r\n"), path
        assert f"Content-Type: application/vnd.docker.{kind}\r\n" in stream.head, path
        stream.sock.close()


@pytest.mark.parametrize("when", ["at once", "while it sends"])
@pytest.mark.parametrize("way", ["attach", "exec", "no such command"])
def test_input_that_is_not_read_does_not_take_the_end_away(
    engine: RunningEngine, running: str, way: str, when: str
) -> None:
    script = ["sh", "-c", f"{'sleep 0.3;' * (when != 'at once')} echo end; exit 3"]
    if way == "attach":
        name = create(engine, script, OpenStdin=True, StdinOnce=True, AttachStdin=True)
        stream = Stream(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
        start(engine, name)
    else:
        command = script if way == "exec" else ["/no/such/command"]
        made = exec_in(engine, running, command, AttachStdin=True)
        stream = Stream(engine, f"/exec/{made}/start", {})
    stream.sock.settimeout(20)
    sent: list[BaseException] = []

    def send() -> None:
        try:
            stream.sock.sendall(bytes(8_000_000))
            stream.sock.shutdown(socket.SHUT_WR)
        except OSError as err:
            sent.append(err)

    sender = threading.Thread(target=send)
    sender.start()
    output = stream.frames()[1]  # ECONNRESET where the socket was closed with input in it
    sender.join()
    assert not sent, "everything could be sent"
    assert output == b"end\n" if way != "no such command" else b"/no/such/command" in output
    if way == "attach":
        assert engine.json("POST", f"/containers/{name}/wait")["StatusCode"] == 3
        remove(engine, name)
    else:
        code = engine.json("GET", f"/exec/{made}/json")["ExitCode"]
        assert code == (3 if way == "exec" else 127)


def test_the_variables_of_an_exec(engine: RunningEngine) -> None:
    target = create(engine, ["sleep", "1000"])
    start(engine, target)
    name = create(engine, ["sleep", "1000"], Tty=True, HostConfig={"Links": [f"{target}:al"]})
    start(engine, name)
    for terminal in (False, True):
        made = exec_in(engine, name, ["env"], Tty=terminal)
        shown = Stream(engine, f"/exec/{made}/start", {"Tty": terminal}).rest()
        assert (b"TERM=xterm" in shown) == terminal, "the exec's terminal, not the container's"
        assert b"AL_NAME=" in shown
    remove(engine, name)
    remove(engine, target)


def test_an_exec_is_forgotten_when_its_container_ends(engine: RunningEngine, running: str) -> None:
    waits, ran = exec_in(engine, running, ["true"]), exec_in(engine, running, ["true"])
    Stream(engine, f"/exec/{ran}/start", {}).rest()
    engine.request("POST", f"/containers/{running}/kill")
    assert engine.request("GET", f"/exec/{waits}/json")[0] == 404
    assert engine.json("GET", f"/exec/{ran}/json")["ExitCode"] == 0, "its client may still ask"
    start(engine, running)
    for made in (waits, ran):
        status, _, data = engine.request("POST", f"/exec/{made}/start", {})
        assert (status, json.loads(data)) == (404, {"message": f"No such exec instance: {made}"})


def test_the_end_of_a_websocket_is_answered(engine: RunningEngine) -> None:
    name = create(engine, ["sleep", "1000"], OpenStdin=True)
    start(engine, name)
    path = f"/containers/{name}/attach/ws?stream=1&stdin=1&stdout=1"
    lines = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    )
    stream = Stream(engine, path, upgrade=False, lines=lines, method="GET")
    stream.sock.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe9")
    assert stream.rest() == b"\x88\x02\x03\xe9"
    remove(engine, name)


def test_events_of_the_past_until_a_time(engine: RunningEngine) -> None:
    name = create(engine, ["true"])
    remove(engine, name)
    data = engine.request("GET", f"/events?until={time.time():.9f}")[2]
    actions = [
        event["Action"] for line in data.splitlines()
        if (event := json.loads(line))["Actor"]["ID"] == name
    ]  # fmt: skip
    assert actions == ["create", "destroy"]


def test_the_order_of_events(engine: RunningEngine) -> None:
    since = time.time()
    volume = f"order-{time.time_ns()}"
    host = {"Binds": [f"{volume}:/v"]}
    name = create(engine, ["sleep", "1000"], HostConfig=host)
    start(engine, name)
    engine.json("POST", f"/commit?container={name}&repo={volume}", status=201)
    engine.request("POST", f"/containers/{name}/kill")
    remove(engine, name)
    engine.request("DELETE", f"/images/{volume}")
    engine.request("DELETE", f"/volumes/{volume}")
    path = f"/events?since={since:.9f}&until={time.time():.9f}"
    found = [json.loads(line) for line in engine.request("GET", path)[2].splitlines()]
    ours = [
        f"{event['Type']} {event['Action']}" for event in found
        if name in str(event) or volume in str(event) or event["Type"] == "image"
    ]  # fmt: skip
    assert ours == [
        "volume create", "container create", "volume mount", "network connect", "container start",
        "container pause", "image create", "image tag", "container commit", "container unpause",
        "container kill", "network disconnect", "volume unmount", "container die",
        "container destroy", "image untag", "image delete", "volume destroy",
    ]  # fmt: skip
