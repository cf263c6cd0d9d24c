"""What flags take, how tables are laid out, how sizes and times are written."""

from __future__ import annotations

import time
from typing import Any

import pytest

from portside import flags
from portside.cli import (
    caller_terminal,
    container_config,
    device_flags,
    flag_values,
    mount_flags,
    port_flags,
    references,
    table,
    times,
)
from portside.cli.verb import _convert
from portside.client.endpoint import Endpoint
from portside.model import jsontext
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.golang import timestamps

FLAGS = flags.table.read_table("""
  -a, --all             Everything,
                        on two lines
      --cpus decimal    A number
  -e, --env list        Again and again
      --name string     A word
  -t, --tty             A switch
      --proxy           A switch that is on (default true)
      --hosts strings   Several in one
  -f, --filter filter   A pair
""")


def parse(*words: str, **options_: Any) -> tuple[flags.table.Options, list[str]]:
    return flags.table.parse(FLAGS, words, convert=_convert, **options_)


def test_a_table_is_read() -> None:
    by_name = {flag.name: flag for flag in FLAGS}
    assert (by_name["all"].short, by_name["all"].kind) == ("a", "")
    assert by_name["all"].help == "Everything,\non two lines"
    assert (by_name["cpus"].short, by_name["cpus"].kind) == ("", "decimal")


@pytest.mark.parametrize(
    ("words", "name", "wanted"),
    [
        (["--name", "x"], "name", "x"),
        (["--name=x=y"], "name", "x=y"),
        (["--name="], "name", ""),
        (["--name", "--all"], "name", "--all"),
        (["--name", "x", "--name", "y"], "name", "y"),
    ],
)
def test_words_of_flags(words: list[str], name: str, wanted: str) -> None:
    assert parse(*words)[0].text(name) == wanted


def test_letters_are_joined_and_hold_values() -> None:
    found, rest = parse("-at", "-eA=1", "-e=B", "-e", "C", "-ateD", "end")
    assert found.flag("all") and found.flag("tty")
    assert found.many("env") == ["A=1", "B", "C", "D"]
    assert rest == ["end"]


def test_switches() -> None:
    assert parse()[0].flag("proxy") and not parse("--proxy=false")[0].flag("proxy")
    assert not parse("--all=0")[0].flag("all") and parse("--all=T")[0].flag("all")
    assert parse("-a=false")[0].given("all")


def test_where_flags_end() -> None:
    assert parse("x", "-a", "y")[1] == ["x", "y"]
    assert parse("x", "-a", "y", interspersed=False)[1] == ["x", "-a", "y"]
    assert parse("--", "-a", "x")[1] == ["-a", "x"]
    assert parse("-", "x")[1] == ["-", "x"]


def test_several_values() -> None:
    found, _ = parse("--hosts", 'a,"b,c"', "--hosts", "d", "-f", "Label=a=b", "-f", "x=1")
    assert found.many("hosts") == ["a", "b,c", "d"]
    assert found.many("filter") == [("label", "a=b"), ("x", "1")]
    assert table.filters(found) == {"label": ["a=b"], "x": ["1"]}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--nosuch"], "unknown flag: --nosuch"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-aZ"], "unknown shorthand flag: 'Z' in -aZ"),
        (["--name"], "flag needs an argument: --name"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["--all=maybe"], 'invalid argument "maybe" for "-a, --all" flag: strconv.ParseBool: '
         'parsing "maybe": invalid syntax'),
        (["--cpus", "x"], 'invalid argument "x" for "--cpus" flag: failed to parse x as a '
         "rational number"),
        (["-f", "x"], 'invalid argument "x" for "-f, --filter" flag: bad format of filter '
         "(expected name=value)"),
    ],
)  # fmt: skip
def test_wrong_flags(words: list[str], wanted: str) -> None:
    with pytest.raises(flags.table.UsageError) as caught:
        parse(*words)
    assert (str(caught.value), caught.value.status) == (wanted, 125)


def test_help_is_asked_for() -> None:
    for words, letter in ((["--help"], False), (["-h"], True), (["x", "--help"], False)):
        with pytest.raises(flags.table.HelpWanted) as caught:
            parse(*words)
        assert caught.value.letter == letter


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("bytes", "0", 0), ("bytes", "512", 512), ("bytes", "1k", 1024), ("bytes", "1.5g", 3 << 29),
        ("bytes", "64MiB", 64 << 20), ("bytes", "2 MB", 2 << 20), ("bytes", "1t", 1 << 40),
        ("swap", "-1", -1), ("swap", "1m", 1 << 20),
        ("int", "-5", -5), ("int", "0x10", 16), ("int", "010", 8), ("int", "0b11", 3),
        ("uint16", "65535", 65535),
        ("decimal", "1.5", 1_500_000_000), ("decimal", ".5", 500_000_000),
        ("decimal", "2", 2_000_000_000), ("decimal", "1/4", 250_000_000),
        ("decimal", "0.000000001", 1),
        ("duration", "1h2m3.5s", 3_723_500_000_000), ("duration", "0", 0),
        ("duration", "100ms", 100_000_000), ("duration", "-1.5h", -5_400_000_000_000),
        ("duration", "1us", 1000), ("duration", "1µs", 1000),
        ("ulimit", "nofile=1:2", {"Name": "nofile", "Soft": 1, "Hard": 2}),
        ("ulimit", "core=-1", {"Name": "core", "Soft": -1, "Hard": -1}),
        ("map", "a=b=c", ("a", "b=c")), ("map", "a", ("a", "")),
    ],
)  # fmt: skip
def test_values(kind: str, text: str, wanted: object) -> None:
    assert flag_values.convert(kind, text) == wanted


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bytes", ""), ("bytes", "x"), ("bytes", "-1"), ("bytes", "1q"), ("bytes", "1 m b"),
        ("bytes", "nan"), ("bytes", "1_0"), ("int", "1.5"), ("int", ""), ("int", str(2**63)),
        ("uint16", "65536"), ("uint16", "-1"), ("decimal", "1.0000000001"), ("decimal", "1_0"),
        ("duration", "5"), ("duration", "s"), ("duration", "1x"), ("duration", "1.2.3s"),
        ("ulimit", "nofile"), ("ulimit", "bogus=1"), ("ulimit", "nofile=2:1"),
        ("mount", "type=bogus=x"), ("mount", "src"), ("network", "name="), ("gpu-request", "x"),
    ],
)  # fmt: skip
def test_wrong_values(kind: str, text: str) -> None:
    with pytest.raises(ValueError):
        flag_values.convert(kind, text)


def test_mounts_and_ports() -> None:
    mount = mount_flags.parse_mount('type=bind,"src=/with,comma",dst=/d,ro')
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == ("/with,comma", "/d", True)
    assert mount_flags.volumes(["/a:/b:ro", "/anonymous"]) == (["/a:/b:ro"], {"/anonymous": {}})
    found = port_flags.published(["8080-8081:80-81", "127.0.0.1::53/udp"])
    assert found["80/tcp"] == [{"HostIp": "", "HostPort": "8080"}]
    assert found["81/tcp"][0]["HostPort"] == "8081"
    assert found["53/udp"] == [{"HostIp": "127.0.0.1", "HostPort": ""}]
    for wrong in ("x", "80:x", "99999:80", "1-2:3-5", "1.2.3:80:80"):
        with pytest.raises(InvalidParameter):
            port_flags.published([wrong])


# -- tables, sizes, times ----------------------------------------------------------------------


def test_tables() -> None:
    assert table.table(["A", "LONG HEADER", "C"], [["x" * 12, "y", "z"], ["1", "2", ""]]) == (
        "A              LONG HEADER   C\n" + "x" * 12 + "   y             z\n"
        "1              2             "
    )
    assert table.table(["A", "B"], []) == "A         B"
    assert table.aligned(["a\tb", "c", "d\te"]) == ["a         b", "c", "d         e"]
    assert table.aligned(["pid\tcmd"], width=20) == ["pid" + " " * 17 + "cmd"]


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert timestamps.local_time(0) == "1970-01-01 01:00:00 +0100 CET"
        assert times.engine_time("1970-01-01T01:00:01") == "1.000000000"
        assert times.engine_time("1970-01-01T00:00:01.25Z") == "1.250000000"
        assert times.engine_time("1970-01-01T02:00:00+01:00") == "3600.000000000"
        assert times.engine_time("1970-01-02") == f"{86400 - 3600}.000000000"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert times.engine_time("1234.5") == "1234.5"
    assert times.engine_time("") is None
    ago = times.engine_time("10m")
    assert ago is not None and abs(time.time() - 600 - float(ago)) < 60
    assert times.ago(-62135596800.0) == "N/A"
    assert times.seconds_of("1970-01-01T00:00:01.5Z") == 1.5
    with pytest.raises(InvalidParameter, match='invalid value for "since": failed to parse'):
        times.engine_time("bogus", "since")


# -- names, keys, addresses, JSON --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "familiar", "canonical"),
    [
        ("busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("a/b:1", "a/b:1", "docker.io/a/b:1"),
        ("docker.io/library/x", "x:latest", "docker.io/library/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("r.io/x@sha256:ab", "r.io/x@sha256:ab", "r.io/x@sha256:ab"),
    ],
)
def test_names(name: str, familiar: str, canonical: str) -> None:
    assert references.familiar(name) == familiar
    assert references.canonical(name) == canonical


def test_keys() -> None:
    assert caller_terminal.keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert caller_terminal.keys("a,ctrl-@,ctrl-[") == b"a\x00\x1b"
    for wrong in ("ctrl-", "ctrl-é", "bogus", ""):
        with pytest.raises(InvalidParameter):
            caller_terminal.keys(wrong)
    watch = caller_terminal.KeyWatch(b"\x10\x11")
    assert (watch.feed(b"ab\x10"), watch.found) == (b"ab", False)
    assert (watch.feed(b"c"), watch.found) == (b"\x10c", False)
    assert (watch.feed(b"\x10"), watch.feed(b"\x11x"), watch.found) == (b"", b"", True)


@pytest.mark.parametrize(
    ("text", "path", "host", "port"),
    [
        ("unix:///a/b", "/a/b", "", 0), ("/a/b", "/a/b", "", 0),
        ("tcp://h:1", "", "h", 1), ("tcp://h", "", "h", 2375), ("h:5", "", "h", 5),
        ("tcp://[::1]:7", "", "::1", 7), ("https://h/x", "", "h", 2376),
    ],
)  # fmt: skip
def test_addresses(text: str, path: str, host: str, port: int) -> None:
    found = Endpoint(text)
    assert (found.path, found.host, found.port) == (path, host, port)


@pytest.mark.parametrize("text", ["bogus://x", "ssh://", "tcp://h:x", "tcp://h:99999"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InvalidParameter):
        Endpoint(text)


def test_json() -> None:
    value = {"a": [1, 2.5, None, True, "é<\n"], "b": {}, "c": []}
    assert jsontext.loads(jsontext.dumps(value)) == value
    assert jsontext.loads(jsontext.dumps(value, "  ")) == value
    assert jsontext.dumps({"a": [1], "b": {}}, "  ") == '{\n  "a": [\n    1\n  ],\n  "b": {}\n}'
    for wrong in ("", "{", "{broken", "[1,]", "1 2", "nul"):
        with pytest.raises(SystemFailure):
            jsontext.loads(wrong)


def test_digits_that_are_not_decimal_are_invalid() -> None:
    with pytest.raises(PortsideError, match="invalid weight for device"):
        device_flags.weights(["/dev/sda:²"])
    with pytest.raises(ValueError, match="rational number"):
        flag_values.decimal("1.²")
    with pytest.raises(InvalidParameter, match="maximum retry count must be an integer"):
        container_config.restart_policy("on-failure:²")
