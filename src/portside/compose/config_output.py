"""The canonical form of a project as text: YAML and JSON as ``docker compose config`` prints them.

The YAML is written here: the form is fixed (items of a sequence indented below their key, strings
that could be read as something else in double quotes), libyaml cannot indent so, and the pure
Python emitter takes ten times as long as everything else ``config`` does.
"""

from __future__ import annotations

import re

from portside.compose import spec
from portside.compose.key_order import ordered
from portside.compose.project import Project, Values
from portside.compose.yaml_source import WORDS, plain
from portside.model import jsontext
from portside.model.sha256 import hex_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_HASH_LEFT_OUT = ("build", "pull_policy", "scale", "depends_on", "profiles")
_PLAIN = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`=][^\n]*|[-?:][^\s][^\n]*")
_SIMPLE = re.compile(r"[a-zA-Z/_][a-zA-Z0-9/_.-]*")
"""Most strings: plain, unless they are words that mean something else."""
_AMBIGUOUS = re.compile(
    r"(?i)y|n|yes|no|on|off|~|null|true|false|\.inf|\.nan|0b[01]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+"
    r"(\.[0-9]*)?|\d{4}-\d\d?-\d\d?([Tt ].*)?|<<"
)


def encoded(project: Project, as_json: bool) -> Values:
    """The project as ordered plain values."""
    values = project.values()
    found: Values = spec.PROJECT.encode(values, as_json)
    found.setdefault("services", {})
    if as_json:
        found.pop("models", None)  # docker compose leaves it out there
    ordered = {"name": found.pop("name"), "services": found.pop("services")}
    found.update((key, sorted_keys(item, as_json)) for key, item in project.extensions.items())
    for group in ("secrets", "configs"):
        for item in (found.get(group) or {}).values():
            if group == "secrets" or "environment" in item:
                item.pop("content", None)
    ordered.update(found)
    return dict(sorted(ordered.items())) if as_json else ordered


def sorted_keys(value: Any, as_json: bool) -> Any:
    """Keys in order at every depth, as Go prints maps."""
    if isinstance(value, dict):
        pairs = sorted(value.items()) if as_json else ordered(value.items())
        return {key: sorted_keys(item, as_json) for key, item in pairs}
    if isinstance(value, list):
        return [sorted_keys(item, as_json) for item in value]
    if as_json and isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)  # as Go prints it
    return value


def to_json(project: Project) -> str:
    """The JSON that Go prints: indented by two, ``<``, ``>`` and ``&`` escaped."""
    return go_json(encoded(project, True), 2)


def go_json(value: Any, indent: int | None = None) -> str:
    """Compact or indented JSON as Go's encoder writes it."""
    text = jsontext.dumps(value, None if indent is None else " " * indent)
    for char, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"),
                         ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):  # fmt: skip
        text = text.replace(char, escape)
    return text


def service_hash(service: Values) -> str:
    """The hash by which ``up`` sees whether a service's configuration changed (hex)."""
    kept = {key: value for key, value in service.items() if key not in _HASH_LEFT_OUT}
    deploy = kept.get("deploy")
    if deploy is not None:
        kept["deploy"] = {key: value for key, value in deploy.items() if key != "replicas"}
    return _digest(spec.SERVICE.encode(kept, True))


def network_hash(network: Values) -> str:
    """The same for a network."""
    return _digest(spec.NETWORK.encode(network, True))


def volume_hash(volume: Values) -> str:
    """The same for a volume; a volume without a driver has the local one."""
    return _digest(spec.VOLUME.encode({**volume, "driver": volume.get("driver") or "local"}, True))


def _digest(value: Any) -> str:
    return hex_digest(go_json(value).encode())


# -- YAML -----------------------------------------------------------------------------------------


def to_yaml(value: Any) -> str:
    """A mapping as YAML with an indentation of two."""
    lines: list[str] = []
    _mapping(value, "", lines)
    return "\n".join(lines) + "\n"


def _mapping(value: dict[str, Any], indent: str, lines: list[str]) -> None:
    for key, item in value.items():
        head = _double(key) if "\n" in key else _scalar(key, indent)
        _entry(f"{indent}{head}:", item, indent, lines)


def _entry(head: str, item: Any, indent: str, lines: list[str]) -> None:
    if isinstance(item, dict) and item:
        lines.append(head)
        _mapping(item, indent + "  ", lines)
    elif isinstance(item, list) and item:
        lines.append(head)
        _sequence(item, indent + "  ", lines)
    else:
        lines.append(f"{head} {_scalar(item, indent)}")


def _sequence(value: list[Any], indent: str, lines: list[str]) -> None:
    for item in value:
        inner: list[str] = []
        if isinstance(item, dict) and item:
            _mapping(item, indent + "  ", inner)
        elif isinstance(item, list) and item:
            _sequence(item, indent + "  ", inner)
        else:
            lines.append(f"{indent}- {_scalar(item, indent)}")
            continue
        lines.append(f"{indent}- {inner[0].lstrip(' ')}")
        lines += inner[1:]


def _scalar(value: Any, indent: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    if isinstance(value, (int, float)):
        from portside.compose.merge import shown

        if value - value != 0:  # not finite
            return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
        return shown(value)
    return _string(value, indent)


def _string(text: str, indent: str) -> str:
    if _SIMPLE.fullmatch(text) and not _AMBIGUOUS.fullmatch(text):
        return text if text not in WORDS else _double(text)
    if not text or _AMBIGUOUS.fullmatch(text) or not isinstance(plain(text), str):
        return _double(text)
    if "\n" in text and _is_printable(text.replace("\n", "")):
        return _literal(text, indent)
    if not _is_printable(text):
        return _double(text)
    if _is_plain(text):
        return text
    return "'" + text.replace("'", "''") + "'"


def _is_printable(text: str) -> bool:
    """For Go's YAML, which escapes what is above 65535."""
    return (
        text.isprintable() and "\ufeff" not in text and (text.isascii() or max(text) < "\U00010000")
    )


def _is_plain(text: str) -> bool:
    if text != text.strip() or text.startswith(("---", "...")):
        return False
    if text == "=":
        return True
    if ": " in text or " #" in text or text.endswith(":"):
        return False
    return _PLAIN.fullmatch(text) is not None


def _double(text: str) -> str:
    out = ['"']
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "\0": "\\0",
             "\x1b": "\\e", "\a": "\\a", "\b": "\\b", "\v": "\\v", "\f": "\\f"}  # fmt: skip
    for char in text:
        if char in names:
            out.append(names[char])
        elif _is_printable(char):
            out.append(char)
        elif ord(char) < 256:
            out.append(f"\\x{ord(char):02X}")
        else:
            out.append(f"\\u{ord(char):04X}" if ord(char) < 65536 else f"\\U{ord(char):08X}")
    return "".join([*out, '"'])


def _literal(text: str, indent: str) -> str:
    """A block of lines; the sign after the bar says how many line ends follow."""
    stripped = text.rstrip("\n")
    ends = len(text) - len(stripped)
    chomp = "-" if ends == 0 else "" if ends == 1 and stripped else "+"
    first = "2" if text[0] in (" ", "\n") else ""
    inner = indent + "  "
    lines = text.split("\n")
    if ends:
        lines.pop()
    body = "\n".join(inner + line if line else "" for line in lines)
    return f"|{first}{chomp}\n{body}"
