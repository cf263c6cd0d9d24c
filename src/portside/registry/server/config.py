"""Settings: a YAML file in distribution's form, overridden by ``REGISTRY_*`` variables.

A variable names a path in the file: ``REGISTRY_HTTP_ADDR`` is ``http: {addr: …}``, and so
on (``tree``). Keys of distribution that change nothing here (logging fields, cache drivers)
are accepted, keys that nobody knows draw a warning. Types with ``forbid_unknown_fields`` are
types where an ignored key would weaken the registry: there it is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang.durations import parse_duration

DEFAULT_ROOT = "/var/lib/registry"


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str = ""
    key: str = ""
    clientcas: tuple[str, ...] = ()
    minimumtls: str = ""


class Prometheus(msgspec.Struct, frozen=True):
    enabled: bool = False
    path: str = "/metrics"


class Debug(msgspec.Struct, frozen=True):
    """A second address, for monitoring."""

    addr: str = ""
    prometheus: Prometheus = Prometheus()


class Http(msgspec.Struct, frozen=True):
    addr: str = ":5000"
    host: str = ""
    prefix: str = ""
    secret: str = ""
    net: str = "tcp"
    relativeurls: bool = False
    """Whether Location headers leave out scheme and host."""
    draintimeout: str = "5s"
    tls: Tls = Tls()
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    debug: Debug = Debug()
    http2: dict[str, Any] = msgspec.field(default_factory=dict)


class Filesystem(msgspec.Struct, frozen=True):
    rootdirectory: str = DEFAULT_ROOT
    maxthreads: int = 100


class S3(msgspec.Struct, frozen=True):
    """An S3-compatible bucket; names as distribution's ``s3`` driver has them."""

    bucket: str = ""
    region: str = "us-east-1"
    regionendpoint: str = ""
    accesskey: str = ""
    secretkey: str = ""
    sessiontoken: str = ""
    secure: bool = True
    skipverify: bool = False
    v4auth: bool = True
    forcepathstyle: bool = True
    encrypt: bool = False
    keyid: str = ""
    chunksize: int = 10 << 20
    rootdirectory: str = ""
    storageclass: str = ""


class Switch(msgspec.Struct, frozen=True):
    enabled: bool = False


class Purging(msgspec.Struct, frozen=True):
    """Removal of uploads that nobody continues."""

    enabled: bool = True
    age: str = "168h"


class Maintenance(msgspec.Struct, frozen=True):
    readonly: Switch = Switch()
    uploadpurging: Purging = Purging()


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    filesystem: Filesystem = Filesystem()
    s3: S3 | None = None
    delete: Switch = Switch()
    maintenance: Maintenance = Maintenance()
    cache: dict[str, Any] = msgspec.field(default_factory=dict)
    redirect: dict[str, Any] = msgspec.field(default_factory=dict)
    tag: dict[str, Any] = msgspec.field(default_factory=dict)


class AccessLog(msgspec.Struct, frozen=True):
    disabled: bool = True


class Log(msgspec.Struct, frozen=True):
    level: str = "info"
    accesslog: AccessLog = AccessLog()
    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    formatter: str = ""
    hooks: tuple[Any, ...] = ()


class Htpasswd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    realm: str = "Registry Realm"
    path: str = ""


class Bearer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens issued by this registry at ``/token`` to users who pass htpasswd.

    Also without ``enabled`` they are issued where anonymous users have some rights.
    """

    enabled: bool = False
    service: str = "portside-registry"
    realm: str = ""
    """URL that clients are sent to; empty: this registry's own ``/token``."""
    expiration: int = 300
    """Seconds a token lives."""


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    htpasswd: Htpasswd | None = None
    bearer: Bearer = Bearer()


class Ignored(msgspec.Struct, frozen=True):
    mediatypes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


class Endpoint(msgspec.Struct, frozen=True):
    """A webhook; names as in distribution's ``notifications.endpoints``."""

    name: str
    url: str
    disabled: bool = False
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    timeout: str = "5s"
    threshold: int = 10
    backoff: str = "1s"
    ignoredmediatypes: tuple[str, ...] = ()
    ignore: Ignored = Ignored()


class Notifications(msgspec.Struct, frozen=True):
    events: dict[str, Any] = msgspec.field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()


class Proxy(msgspec.Struct, frozen=True):
    """A pull-through mirror of any upstream."""

    remoteurl: str = ""
    username: str = ""
    password: str = ""
    ttl: str = "168h"
    """How long what nobody asks for is kept, in whole days; ``0s``: for ever."""


class Right(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may do what where; the first rule that fits user and repository decides."""

    repository: str = "**"
    """A pattern: ``*`` matches one path part, ``**`` for any number."""
    user: str = "*"
    """A user's name, ``*`` for every known user, ``anonymous`` for nobody in particular."""
    actions: tuple[str, ...] = ("pull",)
    """Any of ``pull``, ``push``, ``delete``."""


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tags to keep in the repositories that fit; all others are removed on each pass."""

    repository: str = "**"
    keep_tags: int = 0
    """How many of the newest tags stay; 0: no such rule."""
    keep_days: int = 0
    """Tags pushed within so many days stay; 0: no such rule."""
    keep_pattern: str = ""
    """Tags that fit this regular expression stay always."""


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    repository: str = "**"
    bytes: int = 0
    """Most bytes of distinct blobs in one repository; 0: no limit."""


class Portside(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of this registry that distribution does not have."""

    rights: tuple[Right, ...] = ()
    retention: tuple[Retention, ...] = ()
    quotas: tuple[Quota, ...] = ()
    audit: str = ""
    """Path of the audit log (one JSON document a line); empty: none."""
    hosts: tuple[str, ...] = ()
    """Names it is reached by beside ``http.host``, when it listens on loopback and everybody may
    ask; ``*`` is every name."""
    metrics: bool = True
    page: bool = True
    gc_interval: str = ""
    """How often unreferenced blobs are collected while serving, such as ``24h``."""
    gc_grace: str = "1h"
    """Blobs younger than this are never collected."""


class Settings(msgspec.Struct, frozen=True):
    version: str = "0.1"
    log: Log = Log()
    http: Http = Http()
    storage: Storage = Storage()
    auth: Auth = Auth()
    notifications: Notifications = Notifications()
    proxy: Proxy = Proxy()
    health: dict[str, Any] = msgspec.field(default_factory=dict)
    validation: dict[str, Any] = msgspec.field(default_factory=dict)
    middleware: dict[str, Any] = msgspec.field(default_factory=dict)
    catalog: dict[str, Any] = msgspec.field(default_factory=dict)
    compatibility: dict[str, Any] = msgspec.field(default_factory=dict)
    redis: dict[str, Any] = msgspec.field(default_factory=dict)
    reporting: dict[str, Any] = msgspec.field(default_factory=dict)
    portside: Portside = Portside()

    @property
    def state(self) -> Path:
        """The directory of keys, robots and staged uploads."""
        return Path(self.storage.filesystem.rootdirectory) / "portside"


def seconds(text: str) -> float:
    """A Go duration such as ``1h30m`` or ``250ms`` in seconds. Raises InvalidParameter."""
    return parse_duration(text) / 1e9


def load(path: str | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the YAML file (if any) and the environment.

    Raises InvalidParameter naming the file and the key.
    """
    from portside.registry.server import tree as trees

    tree = trees.read(path) if path else {}
    try:
        trees.override(tree, environ)
        _choose(tree)
        settings = msgspec.convert(trees.fit(tree, Settings, ""), Settings, strict=False)
    except (InvalidParameter, msgspec.ValidationError) as err:
        raise InvalidParameter(f"{path or 'registry settings'}: {err}") from err
    _check(settings)
    return settings


def _choose(tree: dict[str, Any]) -> None:
    """``auth: htpasswd`` and ``storage: s3`` (or the variable) choose what others detail.

    Storage chosen twice means the later word: a file's filesystem yields to a variable's s3.
    """
    if isinstance(auth := tree.get("auth"), str):
        tree["auth"] = {} if auth in ("", "none") else {auth: {}}
    elif isinstance(auth, dict):
        auth.pop("none", None)
    if isinstance(storage := tree.get("storage"), str):
        tree["storage"] = {storage: {}} if storage else {}


def _check(settings: Settings) -> None:
    """Refuse what would not do what it says."""
    if settings.auth.htpasswd is not None:
        if not settings.auth.htpasswd.path:
            raise InvalidParameter("auth.htpasswd.path (REGISTRY_AUTH_HTPASSWD_PATH) is not set")
        if not Path(settings.auth.htpasswd.path).is_file():
            raise InvalidParameter(f"auth.htpasswd.path: no file {settings.auth.htpasswd.path}")
    if settings.http.prefix.strip("/"):
        raise InvalidParameter("http.prefix is not supported: serve at the root of a host")
    if settings.storage.s3 is not None and not settings.storage.s3.bucket:
        raise InvalidParameter("storage.s3.bucket (REGISTRY_STORAGE_S3_BUCKET) is not set")
    ours, proxy = settings.portside, settings.proxy
    for text in (
        settings.http.draintimeout,
        proxy.ttl,
        ours.gc_grace,
        ours.gc_interval or "0s",
        settings.storage.maintenance.uploadpurging.age,
    ):
        seconds(text)
    for rule in ours.retention:
        try:
            re.compile(rule.keep_pattern)
        except re.error as err:
            reason = f"portside.retention: {rule.keep_pattern!r} is not a regular expression: {err}"
            raise InvalidParameter(reason) from err
    for right in ours.rights:
        if unknown := set(right.actions) - {"pull", "push", "delete"}:
            raise InvalidParameter(f"portside.rights: unknown action {min(unknown)!r}")
