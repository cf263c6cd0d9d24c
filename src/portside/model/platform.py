"""Platforms: what an image runs on, what this machine is, and which of several fits best.

Names are normalised to the Go toolchain's (GOOS, GOARCH), as image-spec's
``platform`` property wants them; a variant that is the architecture's baseline is empty.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from portside.model.errors import InvalidParameter

_ARCHITECTURES = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "aarch64_be": ("arm64_be", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
}
_KNOWN_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "arm64be", "armbe", "loong64", "mips", "mips64", "mips64le"}
    | {"mipsle", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc64", "wasm"}
)
_KNOWN_SYSTEMS = frozenset(
    {"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd"}
    | {"openbsd", "plan9", "solaris", "wasi", "windows"}
)
_ARM_VARIANTS = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}
_BASELINES = {("amd64", "v1"), ("arm64", "8"), ("arm64", "v8"), ("arm64", "v8.0")}
_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEM = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
"""A system, perhaps with its version and features in parentheses."""


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """image-spec's platform object; also Docker's ``Platform`` on the wire."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``os[(version[+feature...])][/arch[/variant]]`` or an architecture alone; raises
        InvalidParameter in containerd's words."""
        if "*" in text:
            raise InvalidParameter(f'"{text}": wildcards not yet supported: invalid argument')
        parts = text.split("/")
        if len(parts) == 1 and _PART.fullmatch(text):
            return _from_one(text.lower(), text)
        system = _SYSTEM.fullmatch(parts[0])
        _check_parts(text, parts, system is not None)
        assert system is not None
        if len(parts) == 1:
            parts.append(_from_one(system[1].lower(), text).architecture)
        version, *features = _decoded(system[2] or "", *(system[3] or "").split("+")[1:])
        return cls(
            os=system[1],
            os_version=version,
            os_features=tuple(features),
            architecture=parts[1],
            variant=parts[2] if len(parts) == 3 else "",
        ).normalized()

    @classmethod
    def host(cls) -> Platform:
        """This machine's own platform."""
        return cls(os="linux", architecture=os.uname().machine).normalized()

    def normalized(self) -> Platform:
        """The platform with the canonical spelling of system, architecture and variant."""
        system = self.os.lower()
        system = "darwin" if system == "macos" else system
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _ARCHITECTURES:
            architecture, implied = _ARCHITECTURES[architecture]
            variant = variant or implied
        if (architecture, variant) in _BASELINES:
            variant = ""
        elif architecture == "arm":
            variant = _ARM_VARIANTS.get(variant, variant)
        return msgspec.structs.replace(self, os=system, architecture=architecture, variant=variant)

    @property
    def is_unknown(self) -> bool:
        """``unknown/unknown``: how attestation manifests are marked in an index."""
        return self.os == "unknown" and self.architecture == "unknown"

    def runs(self) -> list[tuple[str, str]]:
        """(architecture, variant) pairs this platform can execute, best first."""
        own = self.normalized()
        if own.architecture == "amd64":
            level = _level(own.variant) or 1
            older = [("amd64", f"v{n}" if n > 1 else "") for n in range(level, 0, -1)]
            return [*older, ("386", "")]
        if own.architecture == "arm":
            newest = _level(own.variant) or 7
            return [("arm", f"v{n}") for n in range(newest, 4, -1)]
        if own.architecture == "arm64":
            exact = [("arm64", own.variant)] if own.variant else []
            return [*exact, ("arm64", ""), *[("arm", f"v{n}") for n in range(8, 4, -1)]]
        return [(own.architecture, own.variant)]

    def rank(self, offered: Platform) -> int | None:
        """How well ``offered`` runs here: 0 is best, None means not at all."""
        own, other = self.normalized(), offered.normalized()
        if own.os != other.os:
            return None
        if own.os_version and other.os_version and own.os_version != other.os_version:
            return None
        try:
            return self.runs().index((other.architecture, other.variant))
        except ValueError:
            return None

    def matches(self, offered: Platform) -> bool:
        return self.rank(offered) is not None

    def __str__(self) -> str:
        own = self.normalized()
        return "/".join(part for part in (own.os, own.architecture, own.variant) if part)


_T = TypeVar("_T")


def _check_parts(text: str, parts: Sequence[str], has_system: bool) -> None:
    """Raises InvalidParameter for the first part that is not one."""
    if not has_system:
        raise InvalidParameter(
            f'"{parts[0]}" is an invalid OS component of "{text}": OSAndVersion specifier '
            f'component must match "^{_quoted(_SYSTEM.pattern)}$": invalid argument'
        )
    for part in parts[1:]:
        if not _PART.fullmatch(part):
            raise InvalidParameter(
                f'"{part}" is an invalid component of "{text}": platform specifier component must '
                'match "^[A-Za-z0-9_.-]+$": invalid argument'
            )
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')


def _quoted(pattern: str) -> str:
    return pattern.replace("\\", "\\\\")


def _decoded(*parts: str) -> list[str]:
    """Without percent encoding, which is rare."""
    if not any("%" in part for part in parts):
        return list(parts)
    from urllib.parse import unquote

    return [unquote(part) for part in parts]


def best(wanted: Platform, offers: Iterable[tuple[Platform, _T]]) -> list[_T]:
    """The offers that run on ``wanted``, best first; equals keep their order."""
    ranked: list[tuple[int, _T]] = []
    for platform, offer in offers:
        rank = wanted.rank(platform)
        if rank is not None:
            ranked.append((rank, offer))
    ranked.sort(key=lambda pair: pair[0])
    return [offer for _, offer in ranked]


def describe(platforms: Sequence[Platform]) -> str:
    """Text for messages: ``linux/amd64, linux/arm64``."""
    return ", ".join(dict.fromkeys(str(platform) for platform in platforms))


def _from_one(word: str, text: str) -> Platform:
    if word in _KNOWN_SYSTEMS or word == "macos":
        host = Platform.host()
        return Platform(os=word, architecture=host.architecture, variant=host.variant).normalized()
    if word in _ARCHITECTURES or word in _KNOWN_ARCHITECTURES:
        return Platform(os="linux", architecture=word).normalized()
    raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')


def _level(variant: str) -> int:
    return int(variant[1:]) if re.fullmatch("v[0-9]", variant) else 0
