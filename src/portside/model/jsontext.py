"""JSON by the C halves of the standard library's ``json``.

``import json`` takes 10 ms, nearly all of it for the ``re`` module, which neither half needs.
"""

from __future__ import annotations

import _json

from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITE = " \t\r\n"


class _Settings:
    """The settings that ``json.JSONDecoder`` would give the scanner."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name.replace("Infinity", "inf"))


_scan = _json.make_scanner(_Settings())  # type: ignore[arg-type]


def loads(data: bytes | str) -> Any:
    """The value of a JSON text. Raises SystemFailure when it is none."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    start = len(text) - len(text.lstrip(_WHITE))
    try:
        value, end = _scan(text, start)
    except (StopIteration, ValueError, SystemError) as err:
        # SystemError: the C half looks for its exception in json.decoder, which is not imported
        why = f" ({err})" if isinstance(err, ValueError) else ""
        raise SystemFailure(f"not JSON: {_shown(text)}{why}") from None
    if text[end:].strip(_WHITE):
        raise SystemFailure(f"not JSON: more follows at {_shown(text[end:])}")
    return value


def _shown(text: str) -> str:
    return repr(text[:60] + ("…" if len(text) > 60 else ""))


def _refuse(value: object) -> Any:
    raise TypeError(f"no JSON for {type(value).__name__}")


def dumps(value: Any, indent: str | None = None, level: int = 0) -> str:
    """Compact JSON, or with one member a line and ``indent`` before each level."""
    if indent is None:
        return "".join(_encoder(value, 0))
    inner, outer = "\n" + indent * (level + 1), "\n" + indent * level
    if isinstance(value, dict) and value:
        members = (
            f"{inner}{dumps(str(key))}: {dumps(item, indent, level + 1)}"
            for key, item in value.items()
        )
        return "{" + ",".join(members) + outer + "}"
    if isinstance(value, (list, tuple)) and value:
        return (
            "[" + ",".join(f"{inner}{dumps(item, indent, level + 1)}" for item in value)
            + outer + "]"
        )  # fmt: skip
    return "".join(_encoder(value, 0))


_encoder = _json.make_encoder(
    None, _refuse, _json.encode_basestring, None, ":", ",", False, False, True
)
