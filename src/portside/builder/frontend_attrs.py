"""The attributes of a Dockerfile build as BuildKit's clients spell them (``FrontendAttrs``)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import FrontendOptions, NamedContext
from portside.model.errors import InvalidParameter
from portside.model.platform import Platform

BUILD_ARG, LABEL, CONTEXT = "build-arg:", "label:", "context:"
MAX_PLATFORMS = 64
TRUE, FALSE = ("1", "t", "true"), ("0", "f", "false")


@dataclass(frozen=True, kw_only=True)
class FrontendAttrs:
    """A request's attributes for the Dockerfile frontend."""

    file: str = "Dockerfile"
    target: str = ""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    """Empty: this machine's."""
    is_multi: bool = False
    """Several platforms, or the client asks for a result by platform."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts: ``local:NAME``, ``docker-image://REF``, ``input:NAME``, URLs."""
    context: str = ""
    """URL of the main context; empty for the client's directory."""
    context_name: str = "context"
    dockerfile_name: str = "dockerfile"
    """Names of the client's directories."""
    request: str = ""
    """A question instead of a build, such as ``frontend.lint``."""
    syntax: str = ""
    """Image of another frontend."""
    pull: bool = False
    options: FrontendOptions = field(default_factory=FrontendOptions)
    """Options from these attributes; platform and client's directory are added later."""


def parse_attrs(attrs: Mapping[str, str]) -> FrontendAttrs:
    """Read a request's attributes; unknown ones are ignored, as in BuildKit. InvalidParameter."""
    build_args: dict[str, str | None] = dict(_prefixed(attrs, BUILD_ARG))
    platforms = [Platform.parse(word) for word in attrs.get("platform", "").split(",") if word]
    if len(platforms) > MAX_PLATFORMS:
        raise InvalidParameter(f"a build is for at most {MAX_PLATFORMS} platforms")
    multi = attrs.get("multi-platform") or build_args.get("BUILDKIT_MULTI_PLATFORM") or ""
    if multi.lower() not in ("", *TRUE, *FALSE):
        raise InvalidParameter(f"invalid boolean value for multi-platform: {multi}")
    is_multi = len(platforms) > 1 or multi.lower() in TRUE
    no_cache = attrs.get("no-cache")
    stages = frozenset(name.lower() for name in (no_cache or "").split(",") if name)
    options = FrontendOptions(
        target=attrs.get("target", ""),
        build_args=build_args,
        labels=_prefixed(attrs, LABEL),
        no_cache=no_cache is not None and not stages,
        no_cache_stages=stages,
        network=_network(attrs.get("force-network-mode", "")),
        extra_hosts=_hosts(attrs.get("add-hosts", "")),
        ulimits=_ulimits(attrs.get("ulimit", "")),
        shm_size=_number(attrs, "shm-size"),
        cgroup_parent=attrs.get("cgroup-parent", ""),
        hostname=attrs.get("hostname") or build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or "",
        cache_namespace=build_args.get("BUILDKIT_CACHE_MOUNT_NS") or "",
        show_platform=is_multi,
    )
    return FrontendAttrs(
        file=attrs.get("filename") or "Dockerfile",
        target=options.target,
        build_args=build_args,
        labels=options.labels,
        platforms=tuple(platforms),
        is_multi=is_multi,
        contexts=_prefixed(attrs, CONTEXT),
        context=attrs.get("context", ""),
        context_name=attrs.get("contextkey") or "context",
        dockerfile_name=attrs.get("dockerfilekey") or "dockerfile",
        request=attrs.get("requestid", ""),
        syntax=attrs.get("source") or build_args.get("BUILDKIT_SYNTAX") or "",
        pull=attrs.get("image-resolve-mode") == "pull",
        options=options,
    )


def context_for(
    contexts: Mapping[str, NamedContext], platform: Platform
) -> dict[str, NamedContext]:
    """Named contexts as they are for a platform: ``NAME::linux/arm64`` before ``NAME``."""
    found = {name: value for name, value in contexts.items() if "::" not in name}
    for name, value in contexts.items():
        base, _, wanted = name.partition("::")
        if wanted and Platform.parse(wanted).matches(platform):
            found[base] = value
    return found


def _prefixed(attrs: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(prefix): value for key, value in attrs.items() if key.startswith(prefix)
    }


def _number(attrs: Mapping[str, str], key: str) -> int:
    text = attrs.get(key, "")
    if not text:
        return 0
    if not text.isdecimal():
        raise InvalidParameter(f"{key}: {text!r} is not a number")
    return int(text)


def _network(mode: str) -> str:
    if mode in ("", "sandbox", "default"):
        return ""
    if mode in ("host", "none"):
        return mode
    raise InvalidParameter(
        f"network mode {mode!r} is not supported by build: use default, host or none"
    )


def _fields(text: str) -> list[str]:
    """One line of comma-separated values."""
    return next(csv.reader([text]), []) if text else []


def _hosts(text: str) -> tuple[llb.HostAlias, ...]:
    found = []
    for entry in _fields(text):
        host, _, address = entry.partition("=")
        if not (host and address):
            raise InvalidParameter(f"invalid key-value pair: {entry}")
        found.append(llb.HostAlias(host=host, ip=address.strip("[]")))
    return tuple(found)


def _ulimits(text: str) -> tuple[llb.UlimitOpt, ...]:
    found = []
    for entry in _fields(text):
        name, _, limits = entry.partition("=")
        soft, _, hard = limits.partition(":")
        try:
            found.append(llb.UlimitOpt(name=name, soft=int(soft), hard=int(hard or soft)))
        except ValueError:
            raise InvalidParameter(f"invalid ulimit {entry!r}: use NAME=SOFT[:HARD]") from None
    return tuple(found)
