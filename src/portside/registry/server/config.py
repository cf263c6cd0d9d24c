"""Settings: a YAML file in distribution's form, overridden by ``REGISTRY_*`` variables.

A variable names a path in the file: ``REGISTRY_HTTP_ADDR`` is ``http: {addr: …}``, and so
on. Keys of distribution that change nothing here (logging fields, cache drivers) are
accepted; keys that nobody knows are errors that name the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from portside.model.errors import InvalidParameter

DEFAULT_ROOT = "/var/lib/registry"


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str = ""
    key: str = ""
    clientcas: tuple[str, ...] = ()
    minimumtls: str = ""


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    addr: str = ":5000"
    host: str = ""
    prefix: str = ""
    secret: str = ""
    net: str = "tcp"
    relativeurls: bool = True
    draintimeout: str = "5s"
    tls: Tls = Tls()
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    debug: dict[str, Any] = msgspec.field(default_factory=dict)
    http2: dict[str, Any] = msgspec.field(default_factory=dict)


class Filesystem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rootdirectory: str = DEFAULT_ROOT
    maxthreads: int = 100


class S3(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An S3-compatible bucket; names as distribution's ``s3`` driver has them."""

    bucket: str
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


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = False


class ReadOnly(msgspec.Struct, frozen=True):
    readonly: Switch = Switch()
    uploadpurging: dict[str, Any] = msgspec.field(default_factory=dict)


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    filesystem: Filesystem = Filesystem()
    s3: S3 | None = None
    delete: Switch = Switch()
    maintenance: ReadOnly = ReadOnly()
    cache: dict[str, Any] = msgspec.field(default_factory=dict)
    redirect: dict[str, Any] = msgspec.field(default_factory=dict)
    tag: dict[str, Any] = msgspec.field(default_factory=dict)


class Htpasswd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    realm: str = "Registry Realm"
    path: str = ""


class Bearer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens issued by this registry at ``/token`` to users who pass htpasswd."""

    enabled: bool = False
    service: str = "portside-registry"
    realm: str = ""
    """URL that clients are sent to; empty: this registry's own ``/token``."""
    expiration: int = 300
    """Seconds a token lives."""


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    htpasswd: Htpasswd | None = None
    bearer: Bearer = Bearer()


class Endpoint(msgspec.Struct, frozen=True):
    """A webhook; names as in distribution's ``notifications.endpoints``."""

    name: str
    url: str
    disabled: bool = False
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    timeout: str = "5s"
    threshold: int = 10
    backoff: str = "1s"


class Notifications(msgspec.Struct, frozen=True):
    endpoints: tuple[Endpoint, ...] = ()


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pull-through mirror of any upstream."""

    remoteurl: str = ""
    username: str = ""
    password: str = ""
    ttl: str = "168h"


class Right(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may do what where; the first rule that fits user and repository decides."""

    repository: str = "**"
    """A pattern: ``*`` stands for one path part, ``**`` for any number."""
    user: str = "*"
    """A user's name, ``*`` for every known user, ``anonymous`` for nobody in particular."""
    actions: tuple[str, ...] = ("pull",)
    """Of ``pull``, ``push``, ``delete``."""


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
    """What this registry has beyond distribution's settings."""

    rights: tuple[Right, ...] = ()
    retention: tuple[Retention, ...] = ()
    quotas: tuple[Quota, ...] = ()
    audit: str = ""
    """Path of the audit log (one JSON document a line); empty: none."""
    metrics: bool = True
    page: bool = True
    gc_interval: str = ""
    """How often unreferenced blobs are collected while serving, such as ``24h``."""
    gc_grace: str = "1h"
    """Blobs younger than this are never collected."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str | float = "0.1"
    log: dict[str, Any] = msgspec.field(default_factory=dict)
    http: Http = Http()
    storage: Storage = Storage()
    auth: Auth = Auth()
    notifications: Notifications = Notifications()
    proxy: Proxy = Proxy()
    health: dict[str, Any] = msgspec.field(default_factory=dict)
    validation: dict[str, Any] = msgspec.field(default_factory=dict)
    middleware: dict[str, Any] = msgspec.field(default_factory=dict)
    catalog: dict[str, Any] = msgspec.field(default_factory=dict)
    portside: Portside = Portside()


def seconds(text: str) -> float:
    """A Go duration such as ``1h30m`` or ``250ms`` in seconds; raises InvalidParameter."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidParameter(f"invalid duration {text!r}: expected a form such as 1h30m")
    return sum(float(number) * units[unit] for number, unit in parts)


def load(path: str | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the YAML file (if any) and the environment.

    Raises InvalidParameter naming the file and the key.
    """
    tree: dict[str, Any] = {}
    if path:
        import yaml

        try:
            tree = yaml.load(Path(path).read_text(), Loader=_loader(yaml)) or {}
        except OSError as err:
            raise InvalidParameter(f"{path}: {err.strerror}") from err
        except yaml.YAMLError as err:
            raise InvalidParameter(f"{path}: not YAML: {err}") from err
        if not isinstance(tree, dict):
            raise InvalidParameter(f"{path}: expected a mapping of settings")
    for name, value in environ.items():
        if name.startswith("REGISTRY_"):
            _override(tree, name, value)
    auth = tree.get("auth")
    if isinstance(auth, str):  # REGISTRY_AUTH=htpasswd only selects; the details say the rest
        tree["auth"] = {}
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as err:
        raise InvalidParameter(f"{path or 'registry settings'}: {err}") from err
    if settings.auth.htpasswd is not None and not settings.auth.htpasswd.path:
        raise InvalidParameter("auth.htpasswd.path (REGISTRY_AUTH_HTPASSWD_PATH) is not set")
    return settings


def _loader(yaml: Any) -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _override(tree: dict[str, Any], name: str, value: str) -> None:
    """Set the key that an environment variable names, as distribution does."""
    parts = name.removeprefix("REGISTRY_").lower().split("_")
    if parts[0] == "portside" and len(parts) > 1:
        parts = ["portside", "_".join(parts[1:])]
    if parts == ["auth"] or parts == ["storage"]:
        return  # these only select a driver that its own settings select already
    node = tree
    for part in parts[:-1]:
        child = node.get(part)
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[parts[-1]] = _scalar(value)


def _scalar(value: str) -> Any:
    """What a variable's text means: YAML, so that lists and booleans can be given too."""
    import yaml

    try:
        parsed = yaml.load(value, Loader=_loader(yaml))
    except yaml.YAMLError:
        return value
    return parsed if isinstance(parsed, bool | list | dict | int) else value
