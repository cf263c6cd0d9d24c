"""The JSON of ``POST /portside/build`` as a build's values."""

from __future__ import annotations

import base64
import binascii

import msgspec

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import FrontendOptions, NamedContext
from portside.builder.exporters.export_options import parse_export
from portside.builder.results import ExportRequest
from portside.builder.solver.step_runner import StepSettings
from portside.model.container import HostConfig, Ulimit
from portside.model.entitlement_names import NAMES, is_known
from portside.model.errors import InvalidParameter
from portside.model.platform import Platform
from portside.model.reference import Reference

MAX_DOCKERFILE = 4 << 20
CALLS = ("build", "check", "outline", "targets")


class ContextSource(msgspec.Struct, omit_defaults=True):
    """The source of a context; one of these."""

    directory: int | None = None
    """Number of the descriptor that came with the first frame."""
    ignore: str = ""
    """Text of its ignore file."""
    stream: bool = False
    """The client sends a tar when it is asked; with ``directory`` unset."""
    image: str = ""
    layout: str = ""
    """Digest of an image of the OCI layout that is the client's folder ``store``."""
    store: int | None = None
    url: str = ""
    """A tar or a Dockerfile that the engine fetches."""


class Output(msgspec.Struct, omit_defaults=True):
    """An output, or a cache for other engines."""

    type: str
    attrs: dict[str, str] = {}
    store: int | None = None
    """Number of the client's folder that it reads or writes."""


class SessionRequest(msgspec.Struct, omit_defaults=True):
    """The request of ``POST /portside/build``. Texts that may hold any bytes are
    base64."""

    dockerfile: str | None = None
    """None: the Dockerfile is in the context, which comes as a stream."""
    file: str = "Dockerfile"
    contexts: dict[str, ContextSource] = {}
    """The main one is named ``context``."""
    target: str = ""
    args: dict[str, str | None] = {}
    labels: dict[str, str] = {}
    platforms: list[str] = []
    no_cache: bool = False
    no_cache_filter: list[str] = []
    network: str = ""
    hosts: list[tuple[str, str]] = []
    ulimits: list[llb.UlimitOpt] = []
    shm_size: int = 0
    cgroup_parent: str = ""
    pull: bool = False
    allow: list[str] = []
    tags: list[str] = []
    outputs: list[Output] = []
    call: str = "build"
    secrets: list[str] = []
    """IDs of the secrets that the client has."""
    ssh: list[str] = []
    cache_from: list[Output] = []
    cache_to: list[Output] = []
    attests: dict[str, str] = {}
    """``provenance`` and ``sbom``, with their options."""
    vcs: dict[str, str] = {}
    """Version control data of the main context: ``source``, ``revision``."""
    shell: bool = False
    """Offer a shell in a step that fails."""
    tty: bool = False
    """The client's standard input is a terminal."""

    def source_text(self) -> bytes | None:
        if self.dockerfile is None:
            return None
        try:
            data = base64.b64decode(self.dockerfile, validate=True)
        except binascii.Error as err:
            raise InvalidParameter(f"the Dockerfile is not base64: {err}") from None
        if len(data) > MAX_DOCKERFILE:
            raise InvalidParameter(
                f"the Dockerfile ({self.file}) is larger than {MAX_DOCKERFILE} bytes"
            )
        return data

    def names(self) -> tuple[Reference, ...]:
        found = []
        for text in self.tags:
            try:
                reference = Reference.parse(text)
            except InvalidParameter as err:
                raise InvalidParameter(f'invalid tag "{text}": {err}') from None
            if reference.digest is not None:
                raise InvalidParameter(f'invalid tag "{text}": a tag cannot contain a digest')
            found.append(reference.tagged())
        return tuple(found)

    def attrs(self) -> dict[str, str]:
        """The request as BuildKit's clients spell it (``FrontendAttrs``)."""
        found = {"filename": self.file}
        found |= {f"build-arg:{key}": value or "" for key, value in self.args.items()}
        found |= {f"label:{key}": value for key, value in self.labels.items()}
        found |= {f"vcs:{key}": value for key, value in self.vcs.items()}
        found |= {f"attest:{key}": value for key, value in self.attests.items()}
        found |= self._limits()
        for name, source in self.contexts.items():
            place = f"docker-image://{source.image}" if source.image else source.url
            if source.layout:
                place = f"{llb.OCI_LAYOUT}{name}@{source.layout}"
            if name == "context":
                found |= {"context": source.url} if source.url else {}
            else:
                found[f"context:{name}"] = place or f"local:{name}"
        if self.target:
            found["target"] = self.target
        if self.platforms:
            found["platform"] = ",".join(self.platforms)
        if self.no_cache or self.no_cache_filter:
            found["no-cache"] = ",".join(self.no_cache_filter)
        return found

    def _limits(self) -> dict[str, str]:
        """Attributes of the request's steps."""
        hosts = ",".join(f"{host}={address}" for host, address in self.hosts)
        ulimits = ",".join(f"{each.name}={each.soft}:{each.hard}" for each in self.ulimits)
        found = {
            "add-hosts": hosts, "ulimit": ulimits, "cgroup-parent": self.cgroup_parent,
            "shm-size": str(self.shm_size or ""),
            "force-network-mode": self.network if self.network != "default" else "",
            "image-resolve-mode": "pull" if self.pull else "",
        }  # fmt: skip
        return {key: value for key, value in found.items() if value}

    def each_platform(self) -> list[Platform]:
        return [Platform.parse(text) for text in self.platforms] or [Platform.host()]


def check(request: SessionRequest) -> None:
    """Check a request before the connection is upgraded. InvalidParameter."""
    request.source_text()
    request.names()
    request.each_platform()
    if request.call not in CALLS:
        raise InvalidParameter(f'method "{request.call}" is not one of {", ".join(CALLS)}')
    for name in request.allow:
        if not is_known(name):
            raise InvalidParameter(f"invalid entitlement {name!r}: use {', '.join(NAMES)}")
    if request.attests:
        from portside.builder.attestations.attest_options import check_attests

        check_attests(request.attests)
    for output in request.outputs:
        attrs = dict(output.attrs)
        if request.tags:
            attrs.setdefault("name", ",".join(request.tags))
        parse_export(ExportRequest(type=output.type, attrs=attrs))
    if request.network not in ("", "default", "host", "none"):
        raise InvalidParameter(
            f'network mode "{request.network}" not supported by buildkit: use default, host or none'
        )


def frontend_options(
    request: SessionRequest, contexts: dict[str, NamedContext], platform: Platform
) -> FrontendOptions:
    main = contexts.pop("context", None)
    return FrontendOptions(
        context=main.output if main is not None else None,
        contexts=contexts,
        target=request.target,
        build_args=request.args,
        labels=request.labels,
        platform=platform,
        no_cache=request.no_cache,
        no_cache_stages=frozenset(name.lower() for name in request.no_cache_filter),
        network=request.network if request.network != "default" else "",
        extra_hosts=tuple(llb.HostAlias(host=host, ip=ip) for host, ip in request.hosts),
        ulimits=tuple(request.ulimits),
        shm_size=request.shm_size,
        cgroup_parent=request.cgroup_parent,
        show_platform=len(request.platforms) > 1,
    )


def step_settings(request: SessionRequest) -> StepSettings:
    return StepSettings(
        entitlements=frozenset(request.allow),
        host=HostConfig(
            ulimits=tuple(Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in request.ulimits)
        ),
    )
