"""Go's rules for text, against what Go's documentation and its programs publish."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang import (
    booleans,
    durations,
    json_reading,
    numbers,
    quoting,
    sizes,
    timestamps,
)

US, MS, S, M, H = 10**3, 10**6, 10**9, 60 * 10**9, 3600 * 10**9

# -- time.ParseDuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("-0", 0), ("+0", 0), ("5s", 5 * S), ("30s", 30 * S), ("1478s", 1478 * S),
        ("-5s", -5 * S), ("+5s", 5 * S), ("5.0s", 5 * S), ("5.6s", 5600 * MS), ("5.s", 5 * S),
        (".5s", 500 * MS), ("1.0s", S), ("1.00s", S), ("1.004s", 1004 * MS),
        ("100.00100s", 100001 * MS),
        ("10ns", 10), ("11us", 11 * US), ("12µs", 12 * US), ("12μs", 12 * US), ("13ms", 13 * MS),
        ("14s", 14 * S), ("15m", 15 * M), ("16h", 16 * H), ("3h30m", 3 * H + 30 * M),
        ("10.5s4m", 4 * M + 10500 * MS), ("-2m3.4s", -(2 * M + 3400 * MS)), ("-5m", -5 * M),
        ("1h2m3s4ms5us6ns", H + 2 * M + 3 * S + 4 * MS + 5 * US + 6), ("1.5h", 90 * M),
        ("9007199254740993ns", (1 << 53) + 1), ("9223372036854775807ns", (1 << 63) - 1),
        ("9223372036854775.807us", (1 << 63) - 1), ("-9223372036854775808ns", -(1 << 63)),
        ("0.3333333333333333333h", 20 * M), ("0.100000000000000000000h", 6 * M),
        ("0.830103483285477580700h", 49 * M + 48 * S + 372539827), ("00000000000000000000001s", S),
    ],
)  # fmt: skip
def test_a_duration(text: str, nanoseconds: int) -> None:
    assert durations.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("3", 'time: missing unit in duration "3"'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        ("-.", 'time: invalid duration "-."'),
        (".s", 'time: invalid duration ".s"'),
        ("+.s", 'time: invalid duration "+.s"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5 parsecs", 'time: unknown unit " parsecs" in duration "5 parsecs"'),
        ("1_0s", 'time: unknown unit "_" in duration "1_0s"'),
        ("1h 2m", 'time: unknown unit "h " in duration "1h 2m"'),
        ("1h-2m", 'time: unknown unit "h-" in duration "1h-2m"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("²s", 'time: invalid duration "²s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("-9223372036854775809ns", 'time: invalid duration "-9223372036854775809ns"'),
        ("9223372036854775.808us", 'time: invalid duration "9223372036854775.808us"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("9" * 5000 + "s", f'time: invalid duration "{"9" * 5000}s"'),
    ],
)
def test_no_duration(text: str, message: str) -> None:
    with pytest.raises(InvalidText) as raised:
        durations.parse_duration(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1100, "1.1µs"), (2200000, "2.2ms"), (3300 * MS, "3.3s"),
        (4 * M + 5 * S, "4m5s"), (4 * M + 5001 * MS, "4m5.001s"),
        (5 * H + 6 * M + 7001 * MS, "5h6m7.001s"),
        (8 * M + 1, "8m0.000000001s"), ((1 << 63) - 1, "2562047h47m16.854775807s"),
        (-(1 << 63), "-2562047h47m16.854775808s"), (H, "1h0m0s"),
    ],
)  # fmt: skip
def test_a_duration_is_written(nanoseconds: int, text: str) -> None:
    assert durations.format_duration(nanoseconds) == text


@given(st.integers(-(10**18), 10**18))
def test_durations_are_read_back(nanoseconds: int) -> None:
    # Fractions go through floating point, in Go too: exact up to microseconds of this size.
    whole = int(nanoseconds / S) * S if abs(nanoseconds) > 10**15 else nanoseconds
    assert durations.parse_duration(durations.format_duration(whole)) == whole


@given(st.text())
def test_wild_durations_are_read_or_refused(text: str) -> None:
    for read in (durations.parse_duration, sizes.ram_bytes, sizes.human_bytes, booleans.parse_bool,
                 numbers.atoi, numbers.parse_uint, numbers.parse_float, timestamps.parse_moment,
                 timestamps.parse_rfc3339, timestamps.parse_unix):  # fmt: skip
        try:
            read(text)
        except InvalidText as err:
            assert str(err)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
        (2 * 3600, "2 hours"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"),
        (13 * 86400, "13 days"), (14 * 86400, "2 weeks"), (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"), (729 * 86400, "24 months"), (730 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_a_span_in_words(seconds: float, wanted: str) -> None:
    assert durations.human_duration(seconds) == wanted


# -- go-units --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "binary", "decimal"),
    [
        ("32", 32, 32), ("32b", 32, 32), ("32B", 32, 32), ("32k", 32 << 10, 32_000),
        ("32K", 32 << 10, 32_000), ("32kb", 32 << 10, 32_000), ("32Kb", 32 << 10, 32_000),
        ("32kib", 32 << 10, 32_000), ("32KiB", 32 << 10, 32_000), ("32Mb", 32 << 20, 32 * 10**6),
        ("32Gb", 32 << 30, 32 * 10**9), ("32Tb", 32 << 40, 32 * 10**12),
        ("32Pb", 32 << 50, 32 * 10**15), ("32.5kB", int(32.5 * 1024), 32_500),
        ("32.5 kB", int(32.5 * 1024), 32_500), ("32 ", 32, 32), ("32. ", 32, 32), ("0", 0, 0),
        ("1.5g", 3 << 29, 1_500_000_000), (".5k", 512, 500), ("0.3K", 307, 300), ("1.9b", 1, 1),
    ],
)  # fmt: skip
def test_a_size(text: str, binary: int, decimal: int) -> None:
    assert sizes.ram_bytes(text) == binary
    assert sizes.human_bytes(text) == decimal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("hello", "invalid size: 'hello'"),
        ("-32", "invalid size: '-32'"),
        ("-32kb", "invalid size: '-32kb'"),
        (".3kB3", 'strconv.ParseFloat: parsing ".3kB3": invalid syntax'),
        ("32.3.k", 'strconv.ParseFloat: parsing "32.3.": invalid syntax'),
        ("1_0k", 'strconv.ParseFloat: parsing "1_0": invalid syntax'),
        (" 32 ", 'strconv.ParseFloat: parsing " 32": invalid syntax'),
        ("32bb", "invalid suffix: 'bb'"),
        ("32u", "invalid suffix: 'u'"),
        ("32kx", "invalid suffix: 'kx'"),
        ("32mIxx", "invalid suffix: 'mIxx'"),
        ("32Kix", "invalid suffix: 'kix'"),
        ("9e99g", "invalid size: '9e99g'"),
        ("1e999", 'strconv.ParseFloat: parsing "1e999": value out of range'),
    ],
)
def test_no_size(text: str, message: str) -> None:
    with pytest.raises(InvalidText) as raised:
        sizes.ram_bytes(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.235MB"), (10**9, "1GB"),
     (123456789012, "123.5GB"), (1.5e15, "1.5PB")],
)  # fmt: skip
def test_a_size_is_written(count: float, wanted: str) -> None:
    assert sizes.human_size(count) == wanted


def test_sizes_of_other_forms() -> None:
    assert sizes.human_size(1982798, 3) == "1.98MB"
    assert sizes.binary_size(1536) == "1.5KiB"
    assert sizes.binary_size(25276588032) == "23.54GiB"


# -- strconv ---------------------------------------------------------------------------------


def test_booleans() -> None:
    assert all(map(booleans.parse_bool, ("1", "t", "T", "TRUE", "true", "True")))
    assert not any(map(booleans.parse_bool, ("0", "f", "F", "FALSE", "false", "False")))
    for text in ("", "tRue", "yes", "on", "2", " true", "asdf"):
        with pytest.raises(InvalidText) as raised:
            booleans.parse_bool(text)
        assert str(raised.value) == f'strconv.ParseBool: parsing "{text}": invalid syntax'


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [
        ("0", 10, 0), ("-1", 10, -1), ("+12", 10, 12), ("012", 10, 12), ("0x1f", 0, 31),
        ("-0b11", 0, -3), ("0o17", 0, 15), ("017", 0, 15), ("1_000", 0, 1000), ("0_17", 0, 15),
        ("9223372036854775807", 10, (1 << 63) - 1), ("-9223372036854775808", 10, -(1 << 63)),
    ],
)  # fmt: skip
def test_an_integer(text: str, base: int, number: int) -> None:
    assert numbers.parse_int(text, base) == number


@pytest.mark.parametrize(
    ("text", "base", "why"),
    [
        ("", 10, "invalid syntax"), ("-", 10, "invalid syntax"), ("--1", 10, "invalid syntax"),
        ("1_000", 10, "invalid syntax"), ("0x1f", 10, "invalid syntax"),
        (" 1", 10, "invalid syntax"),
        ("1 ", 0, "invalid syntax"), ("١", 10, "invalid syntax"), ("089", 0, "invalid syntax"),
        ("_1", 0, "invalid syntax"), ("1.5", 10, "invalid syntax"),
        ("9223372036854775808", 10, "value out of range"),
        ("-9223372036854775809", 0, "value out of range"),
    ],
)  # fmt: skip
def test_no_integer(text: str, base: int, why: str) -> None:
    with pytest.raises(InvalidText) as raised:
        numbers.parse_int(text, base)
    assert str(raised.value) == f'strconv.ParseInt: parsing "{text}": {why}'


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a b", '"a b"'), ('say "x"', r'"say \"x\""'), ("a\\b", r'"a\\b"'), ("\t\n\r", r'"\t\n\r"'),
        ("\a\b\f\v", r'"\a\b\f\v"'), ("\0\x7f", r'"\x00\x7f"'), ("µ日", '"µ日"'),
        ("\u200b\u00a0", r'"\u200b\u00a0"'), ("\U000e0001", r'"\U000e0001"'), ("\udcff", r'"\xff"'),
    ],
)  # fmt: skip
def test_quotes(text: str, quoted: str) -> None:
    assert quoting.quote(text) == quoted


# -- time.Parse and Docker's choice of layouts -----------------------------------------------

NOW = 1_700_000_000 * S


@pytest.fixture
def east() -> Iterator[None]:
    """The local zone is two hours east of UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EET-2")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-01-01T00:00:00Z", 1704067200), ("2024-01-01T00:00:00+01:00", 1704063600),
        ("2024-01-01T00:00:00-01:00", 1704070800), ("2024-01-01T00:00:00", 1704060000),
        ("2024-01-01T00:00", 1704060000), ("2024-01-01T00", 1704060000), ("2024-01-01", 1704060000),
        ("2024-01-01Z", 1704067200), ("2024-01-01T00:00Z", 1704067200),
        ("2024-01-01T00Z", 1704067200),
        ("2024-01-01T00:00+02:00", 1704060000), ("2024-01-01+02:00", 1704060000),
        ("2024-02-29", 1709157600), ("0001-01-01T00:00:00Z", -62135596800),
        ("1700000000", 1700000000),
        ("0", 0), ("10m", 1_700_000_000 - 600), ("-5m", 1_700_000_000 + 300),
        ("1h30m", 1_700_000_000 - 5400),
    ],
)  # fmt: skip
def test_a_moment(text: str, seconds: int, east: None) -> None:
    assert timestamps.parse_moment(text, NOW) == seconds * S


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2024-01-01T00:00:00.5Z", 500 * MS), ("2024-01-01T00:00:00.123456789Z", 123456789),
        ("2024-01-01T00:00:00.1234567899Z", 123456789), ("2024-01-01T00:00:00,5Z", 500 * MS),
        ("2024-01-01T02:00:00.25", 250 * MS),
    ],
)  # fmt: skip
def test_fractions(text: str, nanoseconds: int, east: None) -> None:
    assert timestamps.parse_moment(text, NOW) == 1704067200 * S + nanoseconds


def test_short_durations_before_now() -> None:
    assert timestamps.parse_moment("100ms", NOW) == NOW - 100 * MS
    assert timestamps.parse_moment("10us", NOW) == NOW - 10 * US
    assert timestamps.parse_moment("10µs", NOW) == NOW - 10 * US
    assert timestamps.parse_unix("1700000000.5") == NOW + 500 * MS
    assert timestamps.parse_unix("1700000000.000000001") == NOW + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1_0s", 'failed to parse value as time or duration: "1_0s"'),
        ("yesterday", 'failed to parse value as time or duration: "yesterday"'),
        ("", 'failed to parse value as time or duration: ""'),
        ("T", 'failed to parse value as time or duration: "T"'),
        ("x-y", 'parsing time "x-y" as "2006-01-02": cannot parse "x-y" as "2006"'),
        ("2020-13-01", 'parsing time "2020-13-01": month out of range'),
        ("2023-02-29", 'parsing time "2023-02-29": day out of range'),
        ("2024-01-01T25:00:00Z", 'parsing time "2024-01-01T25:00:00Z": hour out of range'),
        ("2024-01-01T00:60:00Z", 'parsing time "2024-01-01T00:60:00Z": minute out of range'),
        ("2024-01-01x", 'parsing time "2024-01-01x": extra text: "x"'),
        ("2024/01-01", 'parsing time "2024/01-01" as "2006-01-02": cannot parse "/01-01" as "-"'),
        ("2024-01-01T00:00:00+0100",
         'parsing time "2024-01-01T00:00:00+0100" as "2006-01-02T15:04Z07:00": '
         'cannot parse ":00+0100" as "Z07:00"'),
    ],
)  # fmt: skip
def test_no_moment(text: str, message: str) -> None:
    with pytest.raises(InvalidText) as raised:
        timestamps.parse_moment(text, NOW)
    assert str(raised.value) == message


@given(st.integers(-62135596800 * S, 253402300799 * S))
def test_times_are_read_back(nanoseconds: int) -> None:
    assert timestamps.parse_rfc3339(timestamps.format_rfc3339(nanoseconds)) == nanoseconds


def test_times_are_short() -> None:
    assert timestamps.format_rfc3339(1704067200 * S) == "2024-01-01T00:00:00Z"
    assert timestamps.format_rfc3339(1704067200 * S + 120) == "2024-01-01T00:00:00.00000012Z"
    assert timestamps.rfc3339_or_never(0) == "0001-01-01T00:00:00Z"
    assert timestamps.rfc3339_or_zero("nonsense") == timestamps.rfc3339_or_zero(None) == 0


# -- encoding/json ---------------------------------------------------------------------------


class Inner(msgspec.Struct, rename="pascal"):
    name: str = ""
    count: int = 0
    entrypoint: tuple[str, ...] | None = None


class Outer(msgspec.Struct, rename="pascal"):
    inner: Inner = msgspec.field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    labels: dict[str, str] | None = None
    by_name: dict[str, Inner] = msgspec.field(default_factory=dict)
    is_set: bool = False


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("null", Outer()), ("{}", Outer()), ('{"inner":{"NAME":"x"}}', Outer(Inner("x"))),
        ('{"Inner":null,"Many":null,"IsSet":null}', Outer()),
        ('{"Many":[null,{"name":null,"Count":2}]}', Outer(many=(Inner(), Inner(count=2)))),
        ('{"labels":{"Name":"v","b":null}}', Outer(labels={"Name": "v", "b": ""})),
        ('{"BYNAME":{"Name":{"count":1}}}', Outer(by_name={"Name": Inner(count=1)})),
        ('{"Inner":{"Entrypoint":"sh"}}', Outer(Inner(entrypoint=("sh",)))),
        ('{"Unknown":[[[{}]]],"isset":true}', Outer(is_set=True)),
    ],
)  # fmt: skip
def test_json_is_read_as_go_reads_it(text: str, wanted: Outer) -> None:
    assert json_reading.decode(text, Outer) == wanted
    assert json_reading.decode(text.encode(), Outer) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "unexpected EOF"),
        ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        ("{} x", "unexpected content after JSON"),
        ("[" * 100_000, "exceeded max depth"),
        ('{"x":' * 100_000, "exceeded max depth"),
        ('{"Inner":{"Count":99999999999999999999}}', "the number 1.000000e+20 does not fit"),
        ('{"Labels":{"a":"\\u0000"}}', "a string holds a NUL byte"),
        ('{"Inner":7}', "Expected `object`, got `int` - at `$.Inner`"),
    ],
)
def test_json_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        json_reading.decode(text, Outer)
    assert str(raised.value).startswith(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
        ("Inner", "inner", "MANY", "Labels", "ByName", "Name", "Count", "IsSet")) | st.text(),
        inner),
)  # fmt: skip


@given(JSON)
def test_wild_json_is_read_or_refused(value: object) -> None:
    try:
        json_reading.convert(value, Outer)
    except InvalidParameter as err:
        assert str(err)
