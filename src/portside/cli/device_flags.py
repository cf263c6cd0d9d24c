"""``--device`` and similar, ``--gpus``."""

from __future__ import annotations

from portside.flags.table import invalid
from portside.model.errors import InvalidParameter
from portside.model.golang.csv_line import csv
from portside.model.golang.sizes import ram_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_BYTES_HELP = (
    "The correct format is <device-path>:<number>[<unit>]. Number must be a positive "
    "integer. Unit is optional and can be kb, mb, or gb"
)
_COUNT_HELP = "The correct format is <device-path>:<number>. Number must be a positive integer"


def devices(given: Iterable[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Device mappings, and names of CDI devices."""
    mappings, cdi = [], []
    for text in given:
        if is_cdi_name(text):
            cdi.append(text)
            continue
        source, _, rest = text.partition(":")
        target, _, permissions = rest.partition(":")
        if ":" in permissions:
            raise InvalidParameter(f"invalid device specification: {text}")
        if not permissions and target and _is_mode(target):
            target, permissions = "", target
        if permissions and not _is_mode(permissions):
            raise InvalidParameter(f"bad mode specified: {permissions}")
        if not source.startswith("/"):
            raise InvalidParameter(f"{source} is not an absolute path")
        mappings.append(
            {
                "PathOnHost": source,
                "PathInContainer": target or source,
                "CgroupPermissions": permissions or "rwm",
            }
        )
    return mappings, cdi


def is_cdi_name(text: str) -> bool:
    """``vendor.com/class=name`` (Container Device Interface)."""
    kind, equals, name = text.partition("=")
    vendor, slash, group = kind.partition("/")
    return bool(equals and slash and vendor and group and name) and not text.startswith("/")


def _is_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def check_rule(text: str) -> None:
    """Raise ValueError unless it is such as ``c 1:* rwm``."""
    kind, _, rest = text.partition(" ")
    numbers, _, permissions = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    if (
        kind not in ("a", "b", "c")
        or not colon
        or not all(part == "*" or part.isdecimal() for part in (major, minor))
        or not permissions
        or not set(permissions) <= set("rwm")
    ):
        raise ValueError(f"invalid device cgroup format '{text}'")


def weights(given: Iterable[str]) -> list[dict[str, Any]]:
    """``--blkio-weight-device``."""
    found = []
    for text in given:
        path, number = _split(text, "--blkio-weight-device")
        if not number.isdecimal() or (int(number) and not 10 <= int(number) <= 1000):
            raise invalid("--blkio-weight-device", text, f"invalid weight for device: {text}")
        found.append({"Path": path, "Weight": int(number)})
    return found


def throttles(flag: str, given: Iterable[str]) -> list[dict[str, Any]]:
    """``--device-read-bps`` and similar."""
    counts_bytes = flag.endswith("bps")
    found = []
    for text in given:
        path, number = _split(text, f"--{flag}")
        try:
            rate = ram_bytes(number) if counts_bytes else int(number)
            if rate < 0:
                raise ValueError
        except ValueError:
            why = f"invalid rate for device: {text}. "
            why += _BYTES_HELP if counts_bytes else _COUNT_HELP
            raise invalid(f"--{flag}", text, why) from None
        found.append({"Path": path, "Rate": rate})
    return found


def _split(text: str, shown: str) -> tuple[str, str]:
    path, colon, number = text.rpartition(":")
    if not colon or ":" in path:
        raise invalid(shown, text, f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise invalid(shown, text, f"bad format for device path: {text}")
    return path, number


def parse_gpus(text: str) -> dict[str, Any]:
    """``all``, ``2``, ``device=0``, ``"device=0,1",capabilities=utility``. Raises ValueError."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None,
                               "Capabilities": [["gpu"]], "Options": {}}  # fmt: skip
    seen: set[str] = set()
    for field in csv(text):
        name, equals, value = field.partition("=")
        name = name if equals else "count"
        if name in seen:
            raise ValueError(f"gpu request key '{name}' can be specified only once")
        seen.add(name)
        if name == "count":
            request["Count"] = _gpu_count(value if equals else field)
        elif name == "driver":
            request["Driver"] = value
        elif name == "device":
            request["DeviceIDs"] = value.split(",")
        elif name == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif name == "options":
            request["Options"] = dict(item.partition("=")[::2] for item in value.split(","))
        else:
            raise ValueError(f"unexpected key '{name}' in '{field}'")
    if "count" not in seen and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


def _gpu_count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"invalid count ({text}): value must be either \"all\" or an integer: "
                         f'strconv.Atoi: parsing "{text}": invalid syntax') from None  # fmt: skip
