"""The flags of ``build`` as the request of ``POST /portside/build``."""

from __future__ import annotations

import os

from portside.cli import references
from portside.cli.build import build_attests
from portside.cli.session import Failed
from portside.model.entitlement_names import NETWORK_HOST, is_known
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

PROXIES = ("httpProxy", "httpsProxy", "ftpProxy", "noProxy", "allProxy")


def of(session: Session, options: Options) -> dict[str, Any]:
    """Everything but contexts, secrets and outputs. Raises Failed."""
    allow = options.many("allow")
    network = options.text("network", "default")
    _check(options.many("tag"), allow, network)
    if network == "host":
        allow.append(NETWORK_HOST)
    return {
        "target": options.text("target"),
        "args": _args(session, options.many("build-arg")),
        "labels": _pairs(options.many("label")),
        "platforms": _platforms(options.many("platform") or _default_platform()),
        "no_cache": options.flag("no-cache"),
        "no_cache_filter": _split(options.many("no-cache-filter")),
        "network": network,
        "hosts": [_host(text) for text in options.many("add-host")],
        "ulimits": [
            {"name": u["Name"], "soft": u["Soft"], "hard": u["Hard"]}
            for u in options.many("ulimit")
        ],
        "shm_size": options.number("shm-size") or 0,
        "cgroup_parent": options.text("cgroup-parent"),
        "pull": options.flag("pull"),
        "allow": allow,
        "tags": options.many("tag"),
        "attests": {} if _is_question(options) else build_attests.of(options),
        "call": _call(options),
    }


def _is_question(options: Options) -> bool:
    return _call(options) not in ("", "build")


def _call(options: Options) -> str:
    """What to do: ``build``, or a question; ``lint`` is another name of ``check``."""
    call = options.text("call", "build").partition(",")[0]
    return "check" if options.flag("check") or call == "lint" else call


def _check(tags: list[str], allow: list[str], network: str) -> None:
    for tag in tags:
        try:
            references.check(tag)
        except PortsideError as err:
            why = str(err).removeprefix("invalid reference format: ")
            if why.endswith(" must be lowercase"):
                why = "repository name must be lowercase"
            raise Failed(1, f'ERROR: failed to build: invalid tag "{tag}": {why}') from None
    for name in allow:
        if not is_known(name):
            raise Failed(1, f"ERROR: failed to build: unknown entitlement {name}")
    if network not in ("", "default", "host", "none"):
        raise Failed(1, f'ERROR: failed to build: network mode "{network}" not supported by '
                        "buildkit: use default, host or none")  # fmt: skip


def _args(session: Session, texts: list[str]) -> dict[str, str]:
    """``--build-arg``; a name without a value is the environment's. The configured proxies come
    first."""
    found: dict[str, str] = {}
    proxies = session.config.mapping("proxies")
    chosen = proxies.get(session.endpoint.text) or proxies.get("default") or {}
    for key in PROXIES:
        if chosen.get(key):
            name = f"{key.removesuffix('Proxy')}_proxy"
            found[name] = found[name.upper()] = str(chosen[key])
    for text in texts:
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    if "SOURCE_DATE_EPOCH" in os.environ:
        found.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    return found


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = (text.partition("=") for text in texts)
    return {name: value for name, _, value in pairs}


def _split(texts: list[str]) -> list[str]:
    return [word for text in texts for word in text.split(",") if word]


def _default_platform() -> list[str]:
    return list(filter(None, [os.environ.get("DOCKER_DEFAULT_PLATFORM")]))


def _platforms(texts: list[str]) -> list[str]:
    if not texts:
        return []  # most builds: without the import
    from portside.model.platform import Platform

    found = []
    for word in _split(texts):
        try:
            found.append(str(Platform.host() if word == "local" else Platform.parse(word)))
        except PortsideError as err:
            raise Failed(1, f'ERROR: failed to build: "{word}": {err}') from None
    return list(dict.fromkeys(found))


def _host(text: str) -> list[str]:
    """``NAME:IP`` or ``NAME=IP``."""
    marks = [place for place in (text.find("="), text.find(":")) if place > 0]
    if not marks:
        raise Failed(1, f"ERROR: failed to build: invalid host {text}")
    place = marks[0] if text[marks[0]] == "=" else min(marks)
    name, address = text[:place], text[place + 1 :].strip("[]")
    if not address:
        raise Failed(1, f"ERROR: failed to build: invalid host {text}")
    return [name, address]
