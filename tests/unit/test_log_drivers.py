"""Log drivers that send to a socket: their formats, and what a lost connection costs."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
import zlib

import pytest
from logkit import fluentd_records, read_all

from portside.model.errors import SystemFailure
from portside.runtime.fluentd_log import Fluentd
from portside.runtime.gelf_log import Gelf, chunks
from portside.runtime.logs import PART
from portside.runtime.messages import LogConfig
from portside.runtime.poller import Poller

NAMES = {"id": "0123456789abcdef", "name": "boxy", "image_name": "img"}


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_large_gelf_messages_are_chunks(compression: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        options = {"gelf-address": f"udp://127.0.0.1:{server.getsockname()[1]}",
                   "gelf-compression-type": compression}  # fmt: skip
        log = Gelf(LogConfig("gelf", options=options, names=NAMES))
        line = os.urandom(3000).hex().encode()
        log.write("stdout", line + b"\n")
        parts = [server.recv(4096) for _ in range(5 if compression == "none" else 3)]
        log.finish()
    assert {len(part) for part in parts[:-1]} == {1420}
    assert len({part[:10] for part in parts}) == 1 and parts[0][:2] == b"\x1e\x0f"
    assert [tuple(part[10:12]) for part in parts] == [(i, len(parts)) for i in range(len(parts))]
    text = b"".join(part[12:] for part in parts)
    message = json.loads(text if compression == "none" else zlib.decompress(text))
    assert message["short_message"] == line.decode()


def test_gelf_messages_of_too_many_chunks_are_lost() -> None:
    assert len(chunks(bytes(1408 * 128))) == 128
    assert chunks(bytes(1408 * 128 + 1)) == []


def test_a_refused_datagram_costs_no_later_one() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    options = {"gelf-address": f"udp://127.0.0.1:{port}", "gelf-compression-type": "none"}
    log = Gelf(LogConfig("gelf", options=options, names=NAMES))
    log.write("stdout", b"nobody listens\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        server.settimeout(10)
        log.write("stdout", b"here\n")
        assert json.loads(server.recv(4096))["short_message"] == "here"
    log.finish()


def fluentd_log(server: socket.socket, **options: str) -> Fluentd:
    given = {"fluentd-address": f"127.0.0.1:{server.getsockname()[1]}"}
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    return Fluentd(LogConfig("fluentd", options=given, names=NAMES))


def test_fluentd_parts_of_long_lines_and_exact_times() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        log = fluentd_log(server, fluentd_sub_second_precision="true")
        log.write("stdout", b"a" * (PART + 1) + b"\nshort\n")
        log.finish()
        found = fluentd_records(read_all(server.accept()[0]), NAMES["id"][:12])
    first, second, third = (one[2] for one in found)
    assert (len(first["log"]), second["log"], third["log"]) == (PART, "a", "short")
    assert first["partial_id"] == second["partial_id"] and "partial_id" not in third
    parts = [(one["partial_ordinal"], one["partial_last"]) for one in (first, second)]
    assert parts == [("1", "false"), ("2", "true")] and first["partial_message"] == "true"
    assert found[0][1].code == 0 and len(found[0][1].data) == 8


def test_fluentd_keeps_what_a_lost_connection_did_not_take() -> None:
    """The records that wait are sent over the next connection, each whole."""
    poller = Poller()
    with socket.create_server(("127.0.0.1", 0)) as server:
        log = fluentd_log(server, fluentd_retry_wait="1ms")
        log.bind(poller)
        first, _ = server.accept()
        lines = [f"{number:05d}" + "x" * 9000 for number in range(1500)]
        for line in lines:
            log.write("stdout", line.encode() + b"\n")
        assert log.waiting
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()  # with a reset
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read_all(server.accept()[0])))
        reader.start()
        deadline = time.monotonic() + 20
        while log.waiting and time.monotonic() < deadline:
            poller.turn(0.05)
        log.finish()
        reader.join(20)
    texts = received[0].split(b"\xa3log")[1:]
    numbers = [int(re.search(rb"(\d{5})x{100}", text)[1]) for text in texts]  # type: ignore[index]
    assert numbers == list(range(numbers[0], 1500)) and len(numbers) > 20


def test_fluentd_that_comes_later() -> None:
    """An asynchronous driver starts without the other side."""
    poller = Poller()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        options = {"fluentd-address": f"127.0.0.1:{port}", "fluentd-retry-wait": "1ms"}
    with pytest.raises(SystemFailure, match=r"dial tcp 127.0.0.1:\d+: Connection refused"):
        Fluentd(LogConfig("fluentd", options=options, names=NAMES))
    log = Fluentd(LogConfig("fluentd", options=options | {"fluentd-async": "1"}, names=NAMES))
    log.bind(poller)
    log.write("stdout", b"early\n")
    assert log.waiting
    with socket.create_server(("127.0.0.1", port)) as server:
        deadline = time.monotonic() + 20
        while log.waiting and time.monotonic() < deadline:
            poller.turn(0.05)
        log.finish()
        assert (
            fluentd_records(read_all(server.accept()[0]), NAMES["id"][:12])[0][2]["log"] == "early"
        )
