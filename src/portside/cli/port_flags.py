"""``--publish`` and ``--expose``."""

from __future__ import annotations

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Bindings = dict[str, list[dict[str, str]]]

PROTOCOLS = ("tcp", "udp", "sctp")


def port_range(text: str) -> tuple[int, int]:
    """``80`` or ``80-90``. Raises ValueError."""
    first, dash, last = text.partition("-")
    low, high = _port(first), _port(last) if dash else _port(first)
    if high < low:
        raise ValueError(f"invalid range specified for port: {text}")
    return low, high


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def exposed(given: Iterable[str], flag: str = "--expose") -> dict[str, dict[str, str]]:
    """``ExposedPorts`` of ``--expose``, or of another flag of this form."""
    found: dict[str, dict[str, str]] = {}
    for text in given:
        if ":" in text:
            raise InvalidParameter(f"invalid port format for {flag}: {text}")
        ports, protocol = _protocol(text)
        try:
            low, high = port_range(ports)
        except ValueError as err:
            raise InvalidParameter(
                f"invalid range format for {flag}: {text}, error: {err}"
            ) from None
        for port in range(low, high + 1):
            found[f"{port}/{protocol}"] = {}
    return found


def _protocol(text: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {protocol}")
    return ports, protocol


def published(given: Iterable[str]) -> Bindings:
    """``PortBindings`` of ``--publish``. Raises InvalidParameter."""
    found: Bindings = {}
    for text in given:
        for name, binding in _bindings(_short_form(text)):
            found.setdefault(name, []).append(binding)
    return found


def _short_form(text: str) -> str:
    """``target=80,published=8080,protocol=tcp`` as ``8080:80/tcp``."""
    if "=" not in text:
        return text
    fields = {"target": "", "published": "", "protocol": "tcp", "host_ip": ""}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if name not in fields and name not in ("mode",):
            raise InvalidParameter(f"invalid publish opts format (should be name=value but got "
                                   f"'{part}')")  # fmt: skip
        if not equals:
            raise InvalidParameter(f"invalid publish opts format (should be name=value but got "
                                   f"'{part}')")  # fmt: skip
        fields[name] = value
    return f"{fields['published']}:{fields['target']}/{fields['protocol']}"


def _bindings(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    """``[[IP:][HOST]:]CONTAINER[/PROTOCOL]`` with ranges."""
    address, host, container = _parts(text)
    container, protocol = _protocol(container)
    if not container:
        raise InvalidParameter(f"no port specified: {text}<empty>")
    try:
        low, high = port_range(container)
    except ValueError:
        raise InvalidParameter(f"invalid containerPort: {container}") from None
    host_low = host_high = 0
    if host:
        try:
            host_low, host_high = port_range(host)
        except ValueError:
            raise InvalidParameter(f"invalid hostPort: {host}") from None
        if high - low != host_high - host_low and high != low:
            raise InvalidParameter(
                f"invalid ranges specified for container and host Ports: {container} and {host}"
            )
    for offset in range(high - low + 1):
        wanted = str(host_low + offset) if host else ""
        if host and low == high and host_low != host_high:
            wanted = f"{host_low}-{host_high}"
        yield f"{low + offset}/{protocol}", {"HostIp": address, "HostPort": wanted}


def _parts(text: str) -> tuple[str, str, str]:
    """Address, host port and container port."""
    parts = text.split(":")
    if len(parts) < 3:
        return "", parts[0] if len(parts) == 2 else "", parts[-1]
    address = ":".join(parts[:-2])
    bare = address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address
    if bare and not _is_address(bare):
        raise InvalidParameter(f"invalid IP address: {address}")
    return bare, parts[-2], parts[-1]


def _is_address(text: str) -> bool:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text.partition("%")[0])
        except OSError:
            continue
        return True
    return False
