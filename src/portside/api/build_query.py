"""The parameters of ``POST /build`` as a build's values. Imported by the first build."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import msgspec

from portside.api import params
from portside.builder import llb
from portside.builder.cache.pruning import FIELDS, PruneRule
from portside.builder.classic import ClassicOptions
from portside.builder.dockerfile.frontend_values import FrontendOptions
from portside.builder.dockerfile.history_text import ClassicPhrases
from portside.builder.remote_context import fetch
from portside.builder.service import CONTEXT, BuildRequest, BuildService, Context
from portside.builder.solver.log_clip import CLASSIC
from portside.builder.solver.operations import BuildInputs
from portside.builder.solver.step_runner import StepSettings
from portside.model.container import HostConfig, Ulimit
from portside.model.entitlement_names import NETWORK_HOST
from portside.model.errors import InvalidParameter, InvalidText, SystemFailure
from portside.model.filters import Filters
from portside.model.git_urls import is_git_url
from portside.model.golang.quoting import quote
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.model.registryauth import HUB_INDEX, AuthConfig
from portside.serving.http.messages import Request

_T = TypeVar("_T")
MAX_DOCKERFILE = 4 << 20


def classic_options(request: Request) -> ClassicOptions:
    epoch = (_json(request, "buildargs", dict[str, str | None]) or {}).get("SOURCE_DATE_EPOCH")
    if epoch is not None and not epoch.isdecimal():
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    return ClassicOptions(
        names=tuple(_name(text) for text in params.texts(request, "t") if text),
        quiet=params.boolean(request, "q"),
        remove=params.boolean(request, "rm", True) or params.boolean(request, "forcerm"),
        epoch=int(epoch) if epoch else None,
        squash=params.boolean(request, "squash"),
        cache_from=tuple(_json(request, "cachefrom", list[str]) or ()),
    )


def _name(text: str) -> Reference:
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise InvalidParameter("build tag cannot contain a digest")
    return reference.tagged()


def dockerfile_name(request: Request) -> str:
    return params.text(request, "dockerfile") or "Dockerfile"


def context(service: BuildService, request: Request) -> AbstractAsyncContextManager[Context]:
    """The context: the request's body, or what ``remote`` names."""
    remote, name = params.text(request, "remote"), dockerfile_name(request)
    if not remote or remote == "client-session":
        return service.receive(request.body.chunks(), name)
    if is_git_url(remote):
        return service.check_out(remote, name)
    return service.receive(fetch(remote), name)


def build_request(request: Request, context: Context) -> BuildRequest:
    """The requested build, with the received context."""
    name = dockerfile_name(request)
    if context.dockerfile is None:
        raise SystemFailure(f"Cannot locate specified Dockerfile: {name}")
    if not context.dockerfile.strip():
        raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
    if len(context.dockerfile) > MAX_DOCKERFILE:
        raise InvalidParameter(f"the Dockerfile ({name}) is larger than {MAX_DOCKERFILE} bytes")
    platform = params.text(request, "platform")
    network = params.text(request, "networkmode")
    build_args = _json(request, "buildargs", dict[str, str | None]) or {}
    return BuildRequest(
        dockerfile=context.dockerfile,
        file=name,
        frontend=FrontendOptions(
            context=llb.local(CONTEXT, label="load build context"),
            ignore=context.ignore,
            target=params.text(request, "target"),
            build_args=build_args,
            labels=_json(request, "labels", dict[str, str]) or {},
            platform=Platform.parse(platform) if platform else Platform.host(),
            no_cache=params.boolean(request, "nocache"),
            network=_network(network),
            extra_hosts=_hosts(request),
            ulimits=_ulimits(request),
            shm_size=params.number(request, "shmsize", 0) or 0,
            cgroup_parent=params.text(request, "cgroupparent"),
            phrases=ClassicPhrases(),
            show_platform=bool(platform),
        ),
        inputs=BuildInputs(local={CONTEXT: context.tree}, settings=_settings(request)),
        pull=params.boolean(request, "pull"),
        auths=_auths(request.header("x-registry-config")),
    )


def prune_rule(request: Request, filters: Filters) -> PruneRule:
    """The request of ``POST /build/prune``; InvalidParameter with Docker's text."""
    moments = [*filters.get("until", []), *filters.get("unused-for", [])]
    if len(moments) > 1:
        raise InvalidParameter('more than one of the filters "until" and "unused-for"')
    until = 0.0
    for text in moments:
        try:
            moment = params.timestamp(text)
        except InvalidText:
            raise InvalidParameter(
                'failed to prune build cache: "until" filter expects a duration '
                f"(e.g., '24h') or a timestamp: "
                f"failed to parse value as time or duration: {quote(text)}"
            ) from None
        until = moment / 10**9 if moment else time.time()
    for name, values in filters.items():
        if name in FIELDS and len(values) > 1:
            raise InvalidParameter("filters expect only one value")

    def size(name: str) -> int:
        try:
            return params.number(request, name, 0) or 0
        except InvalidText as err:
            text = params.text(request, name)
            raise InvalidParameter(
                f"{name} is in bytes and expects an integer, got {text}: {err}"
            ) from None

    return PruneRule(
        all=params.boolean(request, "all"),
        reserved=size("reserved-space") or size("keep-storage"),
        max_used=size("max-used-space"),
        min_free=size("min-free-space"),
        until=until,
        filters={name: tuple(values) for name, values in filters.items() if name in FIELDS},
    )


def _network(mode: str) -> str:
    """The network of steps: a network of their own, the host's, or none. A network by name, or a
    container's, is the build's setting (:func:`_settings`)."""
    return mode if mode in ("host", "none") else ""


def _json(request: Request, name: str, kind: type[_T]) -> _T | None:
    text = params.text(request, name)
    if not text:
        return None
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"error reading {name}: {err}") from None


def _hosts(request: Request) -> tuple[llb.HostAlias, ...]:
    found = []
    for text in params.texts(request, "extrahosts"):
        for entry in text.split(","):
            if not entry:
                continue
            host, colon, address = entry.partition(":")
            if not colon:
                host, colon, address = entry.partition("=")
            if not (host and address):
                raise InvalidParameter(f"bad format for add-host: {entry!r}")
            found.append(llb.HostAlias(host=host, ip=address))
    return tuple(found)


class _Ulimit(msgspec.Struct):
    name: str = msgspec.field(name="Name")
    hard: int = msgspec.field(name="Hard", default=0)
    soft: int = msgspec.field(name="Soft", default=0)


def _ulimits(request: Request) -> tuple[llb.UlimitOpt, ...]:
    found = _json(request, "ulimits", list[_Ulimit]) or []
    return tuple(llb.UlimitOpt(name=u.name, soft=u.soft, hard=u.hard) for u in found)


def _settings(request: Request) -> StepSettings:
    """Limits of every step's container; asking for the host's network is enough to get it."""

    def number(name: str) -> int:
        return params.number(request, name, 0) or 0

    host = HostConfig(
        memory=number("memory"),
        memory_swap=number("memswap"),
        cpu_shares=number("cpushares"),
        cpu_period=number("cpuperiod"),
        cpu_quota=number("cpuquota"),
        cpuset_cpus=params.text(request, "cpusetcpus"),
        cpuset_mems=params.text(request, "cpusetmems"),
        security_opt=tuple(_json(request, "securityopt", list[str]) or ()),
        ulimits=tuple(
            Ulimit(name=u.name, soft=u.soft, hard=u.hard)
            for u in _json(request, "ulimits", list[_Ulimit]) or []
        ),
    )
    mode = params.text(request, "networkmode")
    return StepSettings(
        entitlements=frozenset([NETWORK_HOST] if mode == "host" else []),
        host=host,
        log=CLASSIC,
        network="" if mode in ("", "default", "bridge", "host", "none") else mode,
    )


def _auths(header: str) -> dict[str, AuthConfig]:
    """``X-Registry-Config``: credentials by registry; unreadable ones count as none."""
    if not header:
        return {}
    try:
        data = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        found: Mapping[str, Any] = msgspec.json.decode(data, type=dict[str, AuthConfig])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return {}
    return {_domain(key): value.complete() for key, value in found.items()}


def _domain(key: str) -> str:
    if key == HUB_INDEX:
        return "docker.io"
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]
