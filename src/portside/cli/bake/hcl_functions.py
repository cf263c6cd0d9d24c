"""Functions that bake files may call, by the names and rules of bake's standard library
(docs.docker.com/build/bake/funcs). ``try``, ``can`` and ``convert`` belong to the evaluator."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import posixpath
import re
import time
import uuid

from portside.cli.bake import hcl_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_RANGE = 1024
_NAMESPACES = {"dns": uuid.NAMESPACE_DNS, "url": uuid.NAMESPACE_URL, "oid": uuid.NAMESPACE_OID,
               "x500": uuid.NAMESPACE_X500}  # fmt: skip


def _text(value: Any) -> str:
    from portside.cli.bake.hcl_expressions import text_of

    return text_of(value)


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    if size <= 0:
        raise ValueError("the size argument must be positive")
    return [items[at : at + int(size)] for at in range(0, len(items), int(size))]


def _coalesce(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    raise ValueError("no non-null arguments")


def _coalesce_list(*values: list[Any]) -> list[Any]:
    for value in values:
        if value:
            return value
    raise ValueError("no non-null arguments")


def _distinct(items: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _flatten(items: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        found += _flatten(item) if isinstance(item, list) else [item]
    return found


def _element(items: list[Any], at: int) -> Any:
    return items[int(at) % len(items)]


def _format(form: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        value = left.pop(0)
        if verb == "v":
            return _text(value) if isinstance(value, str | int | float) else _json(value)
        if verb == "q":
            return json.dumps(_text(value))
        if verb in "dboxX":
            return format(int(value), f"{flags.replace('-', '<')}{verb}")
        if verb in "eEfFgG":
            return f"%{flags}{verb}" % float(value)
        if verb == "t":
            return _text(bool(value))
        return f"%{flags}s" % _text(value)

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([a-zA-Z%])", one, form)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _indent(spaces: int, text: str) -> str:
    return text.replace("\n", "\n" + " " * int(spaces))


def _index_of(items: list[Any], value: Any) -> int:
    return items.index(value)


def _lookup(table: dict[str, Any], key: str, default: Any = None) -> Any:
    return table.get(key, default)


def _merge(*tables: dict[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table in tables:
        found |= table or {}
    return found


def _range(*bounds: float) -> list[Any]:
    start, end, step = 0.0, bounds[0], 0.0
    if len(bounds) > 1:
        start, end = bounds[0], bounds[1]
    step = bounds[2] if len(bounds) > 2 else (1 if end >= start else -1)
    if not step:
        raise ValueError("step must not be zero")
    count = max(0, math.ceil((end - start) / step))
    if count > MAX_RANGE:
        raise ValueError(f"more than {MAX_RANGE} values were generated")
    return [fixed_step(start + step * number) for number in range(count)]


def fixed_step(value: float) -> Any:
    return int(value) if float(value).is_integer() else value


def _matched(match: re.Match[str]) -> Any:
    if match.groupdict():
        return match.groupdict()
    return list(match.groups()) if match.groups() else match[0]


def _regex(pattern: str, text: str) -> Any:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError("pattern did not match any part of the given string")
    return _matched(found)


def _regex_replace(text: str, pattern: str, new: str) -> str:
    return re.sub(pattern, re.sub(r"\$\{?(\w+)\}?", r"\\g<\1>", new), text)


def _replace(text: str, old: str, new: str) -> str:
    return text.replace(old, new)


def _sanitize(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text)


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if not 0 <= start <= end <= len(items):
        raise ValueError("index out of bounds")
    return items[int(start) : int(end)]


def _substr(text: str, offset: int, length: int) -> str:
    start = int(offset) if offset >= 0 else len(text) + int(offset)
    return text[start:] if length < 0 else text[start : start + int(length)]


def _title(text: str) -> str:
    return re.sub(r"(^|\s)(\S)", lambda m: m[1] + m[2].upper(), text)


def _csv(text: str) -> list[dict[str, str]]:
    import csv
    import io

    return list(csv.DictReader(io.StringIO(text)))


def _hash(name: str) -> Callable[[str], str]:
    return lambda text: hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()


def _url(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text)


def _format_date(form: str, stamp: str) -> str:
    """Letters as in HCL's formatdate."""
    from datetime import datetime

    moment = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    table = {"YYYY": "%Y", "YY": "%y", "MMMM": "%B", "MMM": "%b", "MM": "%m", "DD": "%d",
             "EEEE": "%A", "EEE": "%a", "hh": "%H", "HH": "%I", "mm": "%M", "ss": "%S",
             "AA": "%p"}  # fmt: skip
    pattern = "|".join(sorted(table, key=len, reverse=True))
    return re.sub(r"'([^']*)'|" + pattern,
                  lambda m: m[1] if m[1] is not None else moment.strftime(table[m[0]]),
                  form)  # fmt: skip


def _time_add(stamp: str, duration: str) -> str:
    from datetime import datetime, timedelta

    moment = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    sign = -1 if duration.startswith("-") else 1
    seconds = sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(ms|h|m|s)", duration))
    return (moment + timedelta(seconds=sign * seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _product(*sets: list[Any]) -> list[list[Any]]:
    return [list(item) for item in itertools.product(*sets)]


def _length(value: Any) -> int:
    return len(value)


def _set(operation: str) -> Callable[..., list[Any]]:
    def work(first: list[Any], *others: list[Any]) -> list[Any]:
        found = _distinct(first)
        for other in others:
            if operation == "union":
                found = _distinct([*found, *other])
            elif operation == "intersection":
                found = [item for item in found if item in other]
            elif operation == "subtract":
                found = [item for item in found if item not in other]
            else:
                found = [i for i in found if i not in other] + [i for i in other if i not in found]
        return sorted(found, key=str)

    return work


def _bcrypt(text: str, cost: float = 10) -> str:
    import bcrypt

    salt = bcrypt.gensalt(int(cost), prefix=b"2a")
    return bcrypt.hashpw(text.encode(), salt).decode()


def _rsa_decrypt(text: str, key: str) -> str:
    """PKCS #1 v1.5, as HCL's function has it."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(
            f'failed to decode input "{text}": cipher text must be base64-encoded'
        ) from None
    private = load_pem_private_key(key.encode(), password=None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("the key is not an RSA private key")
    return private.decrypt(data, padding.PKCS1v15()).decode()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "absolute": abs,
    "add": lambda a, b: a + b,
    "and": lambda a, b: a and b,
    "base64decode": lambda text: base64.b64decode(text).decode(),
    "base64encode": lambda text: base64.b64encode(text.encode()).decode(),
    "basename": lambda path: posixpath.basename(path.rstrip("/")) or path[:1],
    "bcrypt": _bcrypt,
    "byteslen": lambda text: len(text.encode()),
    "ceil": math.ceil,
    "chomp": lambda text: text.rstrip("\r\n"),
    "chunklist": _chunks,
    "cidrhost": hcl_addresses.host,
    "cidrnetmask": hcl_addresses.netmask,
    "cidrsubnet": hcl_addresses.subnet,
    "cidrsubnets": hcl_addresses.subnets,
    "coalesce": _coalesce,
    "coalescelist": _coalesce_list,
    "compact": lambda items: [item for item in items if item],
    "concat": lambda *lists: [item for items in lists for item in items],
    "contains": lambda items, value: value in items,
    "csvdecode": _csv,
    "dirname": lambda path: posixpath.dirname(path) or ".",
    "distinct": _distinct,
    "divide": lambda a, b: a / b,
    "element": _element,
    "equal": lambda a, b: a == b,
    "flatten": _flatten,
    "floor": math.floor,
    "format": _format,
    "formatdate": _format_date,
    "formatlist": lambda form, *lists: [_format(form, *row) for row in zip(*lists, strict=True)],
    "greaterthan": lambda a, b: a > b,
    "greaterthanorequalto": lambda a, b: a >= b,
    "hasindex": lambda whole, key: (
        key in whole if isinstance(whole, dict) else 0 <= key < len(whole)
    ),
    "homedir": lambda: os.path.expanduser("~"),
    "indent": _indent,
    "index": lambda whole, key: whole[key],
    "indexof": _index_of,
    "int": int,
    "join": lambda sign, *lists: sign.join(_text(item) for items in lists for item in items),
    "jsondecode": json.loads,
    "jsonencode": _json,
    "keys": sorted,
    "length": _length,
    "lessthan": lambda a, b: a < b,
    "lessthanorequalto": lambda a, b: a <= b,
    "log": lambda value, base: math.log(value, base),
    "lookup": _lookup,
    "lower": str.lower,
    "max": max,
    "md5": _hash("md5"),
    "merge": _merge,
    "min": min,
    "modulo": math.fmod,
    "multiply": lambda a, b: a * b,
    "negate": lambda a: -a,
    "not": lambda a: not a,
    "notequal": lambda a, b: a != b,
    "or": lambda a, b: a or b,
    "parseint": lambda text, base: int(text, int(base)),
    "pow": pow,
    "range": _range,
    "regex": _regex,
    "regex_replace": _regex_replace,
    "regexall": lambda pattern, text: [_matched(m) for m in re.finditer(pattern, text)],
    "replace": _replace,
    "reverse": lambda text: text[::-1],
    "reverselist": lambda items: items[::-1],
    "rsadecrypt": _rsa_decrypt,
    "sanitize": _sanitize,
    "sethaselement": lambda items, value: value in items,
    "setintersection": _set("intersection"),
    "setproduct": _product,
    "setsubtract": _set("subtract"),
    "setsymmetricdifference": _set("symmetric"),
    "setunion": _set("union"),
    "sha1": _hash("sha1"),
    "sha256": _hash("sha256"),
    "sha512": _hash("sha512"),
    "signum": lambda a: (a > 0) - (a < 0),
    "slice": _slice,
    "sort": sorted,
    "split": lambda sign, text: text.split(sign),
    "strlen": len,
    "strrev": lambda text: text[::-1],
    "substr": _substr,
    "subtract": lambda a, b: a - b,
    "timeadd": _time_add,
    "timestamp": lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "title": _title,
    "trim": lambda text, chars: text.strip(chars),
    "trimprefix": lambda text, prefix: text.removeprefix(prefix),
    "trimspace": str.strip,
    "trimsuffix": lambda text, suffix: text.removesuffix(suffix),
    "upper": str.upper,
    "urlencode": _url,
    "uuidv4": lambda: str(uuid.uuid4()),
    "uuidv5": lambda space, name: str(uuid.uuid5(_NAMESPACES[space], name)),
    "values": lambda table: [table[key] for key in sorted(table)],
    "zipmap": lambda keys, values: dict(zip(keys, values, strict=True)),
}
