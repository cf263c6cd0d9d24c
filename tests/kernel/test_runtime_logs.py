"""Log drivers at work: what is kept, rotated, sent and dropped."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from logkit import fluentd_records, read_all
from runtimekit import Bench, Box, bench, is_root

from portside.model.errors import PortsideError
from portside.runtime.logs import JsonFile
from portside.runtime.messages import LogConfig, Streams
from portside.runtime.poller import Poller
from portside.runtime.remote_logs import Journald, Syslog

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]
NAMES = {"id": "0123456789abcdef", "name": "boxy", "image_name": "img"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


async def logged(made: Bench, script: str, driver: str, path: Path, **options: str) -> Box:
    values = {name.replace("_", "-"): value for name, value in options.items()}
    log = LogConfig(driver, str(path), values, {}, NAMES)
    box = await made.start("sh", "-c", script, request={"log": log}, attach=False)
    await box.ended()
    return box


def lines_of(path: Path) -> list[str]:
    """The log as it is read: oldest file first, compressed or not."""
    files = []
    for number in range(20, 0, -1):
        for name in (f"{path}.{number}", f"{path}.{number}.gz"):
            if Path(name).exists():
                files.append(Path(name))
    text = b""
    for file in [*files, path]:
        data = file.read_bytes()
        text += gzip.decompress(data) if file.suffix == ".gz" else data
    return [json.loads(line)["log"] for line in text.splitlines()]


COUNT = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"


async def settled(path: Path) -> None:
    """Until the monitor is through with compressing."""
    async with asyncio.timeout(20):
        while list(path.parent.glob("*.new")):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("json-file", {"max_size": "20k", "max_file": "4"}),
        ("json-file", {"max_size": "20k", "max_file": "4", "compress": "true"}),
        ("local", {"max_size": "20k", "max_file": "4"}),
        ("json-file", {"max_size": "20k", "max_file": "1"}),
    ],
)
async def test_rotation_keeps_the_newest_and_loses_no_line_between(
    made: Bench, tmp_path: Path, driver: str, options: dict[str, str]
) -> None:
    path = tmp_path / "log"
    await logged(made, COUNT, driver, path, **options)
    await settled(path)
    found = lines_of(path)
    numbers = [int(line.split()[1]) for line in found]
    assert numbers == list(range(numbers[0], 3000))
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) <= int(options["max_file"])
    compressed = driver == "local" or "compress" in options
    assert any(name.endswith(".gz") for name in files) == compressed


async def test_none_keeps_nothing(made: Bench, tmp_path: Path) -> None:
    await logged(made, "echo x", "none", tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


async def test_long_and_unfinished_lines(made: Bench, tmp_path: Path) -> None:
    path = tmp_path / "log"
    await logged(made, "head -c 40000 /dev/zero | tr '\\0' a; echo; printf end", "json-file", path)
    found = lines_of(path)
    assert [len(line) for line in found] == [16384, 16384, 7233, 3]
    assert found[2].endswith("a\n") and found[3] == "end"


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    import resource

    log = JsonFile(LogConfig(path=str(tmp_path / "log")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
        for number in range(5):
            log.write("stdout", b"some line %d\n" % number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    log.write("stdout", b"after\n")
    found = lines_of(tmp_path / "log")
    assert found[0] == "some line 0\n" and found[-1] == "after\n"


@pytest.mark.parametrize("kind", ["unix", "unixgram", "udp", "tcp"])
async def test_syslog(made: Bench, tmp_path: Path, kind: str) -> None:
    stream = kind in ("unix", "tcp")
    family = socket.AF_INET if kind in ("udp", "tcp") else socket.AF_UNIX
    server = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    with server:
        if family == socket.AF_UNIX:
            server.bind(str(tmp_path / "s"))
            address = f"{kind}://{tmp_path}/s"
        else:
            server.bind(("127.0.0.1", 0))
            address = f"{kind}://127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(10)
        if stream:
            server.listen()
        await logged(made, "echo out; echo err >&2", "syslog", tmp_path / "log",
                     syslog_address=address, syslog_facility="local3")  # fmt: skip
        text = b""
        if stream:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(4096):
                    text += data
        else:
            text = server.recv(4096) + server.recv(4096)
    lines = sorted(text.decode().splitlines())
    assert lines[0].startswith("<155>") and lines[0].endswith("]: err")
    assert lines[1].startswith("<158>") and " 0123456789ab[" in lines[1]
    assert sorted(lines_of(tmp_path / "log")) == ["err\n", "out\n"]  # the copy for "logs"


async def test_syslog_formats_and_no_copy(made: Bench, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        server.settimeout(10)
        address = f"unixgram://{tmp_path}/s"
        options = {"syslog_address": address, "syslog_format": "rfc5424micro"}
        await logged(made, "echo out", "syslog", tmp_path / "log", cache_disabled="true", **options)
        words = server.recv(4096).decode().split()
    assert words[0] == "<30>1" and words[1].endswith("Z")
    assert (words[3], words[5:]) == ("0123456789ab", ["0123456789ab", "-", "out"])
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"syslog_address": "unix:///no/such/socket"}, "failed to initialize logging driver"),
        ({"syslog_address": "moon://x"}, "must be unix, unixgram, udp or tcp"),
        ({"syslog_facility": "moon"}, "invalid syslog facility"),
        ({"syslog_format": "moon"}, "invalid syslog format"),
    ],
)
async def test_bad_syslog(made: Bench, tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(PortsideError, match=said):
        await logged(made, "true", "syslog", tmp_path / "log", **options)


async def test_gelf(made: Bench, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        await logged(made, "echo out; echo; echo err >&2", "gelf", tmp_path / "log",
                     gelf_address=address)  # fmt: skip
        found = [json.loads(gzip.decompress(server.recv(4096))) for _ in range(2)]
    found.sort(key=lambda message: message["level"])
    assert [(one["level"], one["short_message"]) for one in found] == [(3, "err"), (6, "out")]
    assert found[0]["version"] == "1.1" and found[0]["_container_name"] == "boxy"
    assert found[0]["_tag"] == "0123456789ab" and 0 <= time.time() - found[0]["timestamp"] < 60
    assert sorted(lines_of(tmp_path / "log")) == ["\n", "err\n", "out\n"]


async def test_gelf_over_tcp(made: Bench, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        await logged(made, "echo one; printf two", "gelf", tmp_path / "log", gelf_address=address)
        connection, _ = server.accept()
        text = read_all(connection)
    *messages, end = text.split(b"\0")
    assert [json.loads(one)["short_message"] for one in messages] == ["one", "two"]
    assert end == b""


async def test_fluentd(made: Bench, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        script = "echo out; printf 'x\\377y\\n'; printf end"
        await logged(made, script, "fluentd", tmp_path / "log", fluentd_address=address)
        connection, _ = server.accept()
        found = fluentd_records(read_all(connection), NAMES["id"][:12])
    assert [one[2]["log"] for one in found] == ["out", b"x\xffy", "end"]
    tag, moment, record, options = found[0]
    assert tag == "0123456789ab" and options == {} and 0 <= time.time() - moment < 60
    assert record == {"container_id": NAMES["id"], "container_name": "/boxy", "source": "stdout",
                      "log": "out"}  # fmt: skip


async def test_journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(10)
        monkeypatch.setattr("portside.runtime.remote_logs.JOURNAL", str(tmp_path / "journal"))
        log = Journald(LogConfig("journald", names=NAMES, attributes={"my.label": "v"}))
        log.write("stderr", b"line one\n")
        log.finish()
        fields = dict(line.split(b"=", 1) for line in server.recv(4096).splitlines())
    assert fields[b"MESSAGE"] == b"line one"
    assert fields[b"PRIORITY"] == b"3"
    assert fields[b"CONTAINER_ID"] == b"0123456789ab"
    assert fields[b"CONTAINER_NAME"] == b"boxy"
    assert fields[b"MY_LABEL"] == b"v"


@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="journald is here")
async def test_journald_where_there_is_none(made: Bench, tmp_path: Path) -> None:
    with pytest.raises(PortsideError, match="journald is not enabled on this host"):
        await logged(made, "true", "journald", tmp_path / "log")


def slow_syslog(tmp_path: Path, **options: str) -> tuple[Syslog, socket.socket, Poller]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    values = {"syslog-address": f"unix://{tmp_path}/s"} | options
    log = Syslog(LogConfig("syslog", options=values, names=NAMES))
    poller = Poller()
    log.bind(poller)
    connection, _ = server.accept()
    server.close()
    connection.settimeout(10)
    return log, connection, poller


async def test_blocking_mode_asks_to_wait_and_loses_nothing(tmp_path: Path) -> None:
    log, connection, poller = slow_syslog(tmp_path)
    told = []
    log.drained = lambda: told.append(1)
    written = 0
    while not log.full:
        log.write("stdout", b"x" * 1000 + b"\n")
        written += 1
    assert not told
    got = b""
    while got.count(b"\n") < written:
        connection.setblocking(False)
        try:
            got += connection.recv(1 << 20)
        except BlockingIOError:
            poller.turn(1.0)
    assert told and not log.full
    connection.close()


async def test_non_blocking_mode_drops_what_is_too_much(tmp_path: Path) -> None:
    log, connection, _ = slow_syslog(tmp_path, **{"mode": "non-blocking", "max-buffer-size": "64k"})
    for number in range(5000):
        log.write("stdout", b"%d %s\n" % (number, b"x" * 1000))
    assert not log.full
    import threading

    got = bytearray()

    def read() -> None:
        while data := connection.recv(1 << 20):
            got.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    log.finish()
    thread.join(20)
    lines = got.count(b"\n")
    assert 64 <= lines < 5000
    assert got.endswith(b"x\n")
    connection.close()


async def test_a_stuck_syslog_stops_only_the_output(made: Bench, tmp_path: Path) -> None:
    """exec, signals and the other container continue while the log takes nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        options = {"syslog-address": f"unix://{tmp_path}/s"}
        log = LogConfig("syslog", str(tmp_path / "log"), options, {}, NAMES)
        box = await made.start("sh", "-c", "yes", request={"log": log}, attach=False)
        connection, _ = server.accept()
        for _ in range(5):
            assert await box.exec("echo", "still") == (0, b"still\n")
            await asyncio.sleep(0.05)
        connection.close()
        await box.client.signal(9)
        assert (await box.ended()).code == 137


async def test_a_slow_reader_blocks_nobody(made: Bench) -> None:
    """One attached socket is not read: others, exec and the end of the container are as ever."""
    script = "read x; head -c 3000000 /dev/zero | tr '\\0' a; echo done"
    box = await made.start("sh", "-c", script, stdin=True)
    slow, theirs = socket.socketpair()
    await box.client.attach(theirs, Streams(stdout=True, stderr=True, raw=True))
    theirs.close()
    assert box.sock is not None
    box.sock.send(b"go\n")
    output = await box.output()
    assert output.endswith(b"done\n") and len(output) == 3_000_005
    assert (await box.ended()).code == 0
    slow.close()
