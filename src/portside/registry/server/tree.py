"""From a YAML file and ``REGISTRY_*`` variables to one tree of settings, checked by type.

Scalars stay the text they were written as until the type of their place is known, so that
a password of digits is still a password. Keys nobody knows are dropped with a warning, as
other registries do: their files have more keys than matter here, and Kubernetes and Docker
put variables such as ``REGISTRY_PORT`` into the environment of a service of that name. Where
ignoring a key would open what was meant to be closed, the type itself forbids it, and a key
or variable that reads like authentication is refused wherever it stands.
"""

from __future__ import annotations

import logging
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from portside.model.errors import InvalidParameter

_LOG = logging.getLogger("portside.registry")
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TRUE = frozenset(("true", "yes", "on", "y", "t", "1"))
_FALSE = frozenset(("false", "no", "off", "n", "f", "0"))
_SERVICE = re.compile(
    r"REGISTRY_ENV_.*|REGISTRY_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|NAME|"
    r"PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)?)"
)
"""What Kubernetes and links put into the environment for a service."""
_GUARDS = frozenset(
    ("auth", "authn", "authz", "authentication", "authorization", "htpasswd", "passwd",
     "password", "passwords", "token", "tokens", "bearer", "basic", "basicauth", "login",
     "credential", "credentials", "user", "users", "username", "secret", "right", "rights",
     "acl", "acls", "access", "permission", "permissions", "policy", "realm", "robot", "robots",
     "oauth", "oauth2", "oidc", "ldap", "tls", "ssl", "cert", "certificate", "clientca",
     "clientcas", "mtls", "readonly", "private", "anonymous")
)  # fmt: skip
"""Words of settings that close something."""


def read(path: str) -> dict[str, Any]:
    """The file's tree; raises InvalidParameter naming the file."""
    try:
        tree = yaml.load(Path(path).read_text(), Loader=_LOADER) or {}
    except OSError as err:
        raise InvalidParameter(f"{path}: {err.strerror}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InvalidParameter(f"{path}: not YAML: {err}") from err
    if not isinstance(tree, dict):
        raise InvalidParameter(f"{path}: expected a mapping of settings")
    return tree


def override(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put each variable at the place its name gives: ``REGISTRY_HTTP_ADDR`` at http.addr.

    Shorter names come first: ``REGISTRY_STORAGE=s3`` chooses, ``REGISTRY_STORAGE_S3_BUCKET``
    then says more.
    """
    for name in sorted(environ):
        if not name.startswith("REGISTRY_"):
            continue
        parts = name.removeprefix("REGISTRY_").lower().split("_")
        if _SERVICE.fullmatch(name) and not _is_setting(parts):
            continue
        if parts[0] == "portside" and len(parts) > 1:
            parts = ["portside", "_".join(parts[1:])]
        _put(tree, parts, environ[name])


def _is_setting(parts: list[str]) -> bool:
    """Whether a variable that could be a service's is one of the few settings of that form."""
    return parts[:2] == ["notifications", "endpoints"]  # …_0_NAME


def _put(tree: dict[str, Any], parts: list[str], value: str) -> None:
    node: Any = tree
    for part in parts[:-1]:
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                return
            child = node[int(part)]
        else:
            child = _parsed(node.get(part), {})
            if isinstance(child, str) and part in ("auth", "storage"):
                child = {child: {}}
            node[part] = child = child if isinstance(child, dict | list) else {}
        node = child
    last = parts[-1]
    if isinstance(node, dict) and not (last in ("auth", "storage") and _has(node.get(last), value)):
        node[last] = value


def _has(chosen: Any, name: str) -> bool:
    """Whether a driver that a variable chooses is what the file has, with its details."""
    return isinstance(chosen, dict) and name in chosen


def fit(value: Any, kind: Any, where: str) -> Any:
    """The value in a form that ``kind`` can be made of; keys it does not have are dropped."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        kind = next(choice for choice in arguments if choice is not type(None))
        return fit(value, kind, where)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _fit_struct(_parsed(value, {}), kind, where)
    if origin in (tuple, list):
        items = _parsed(value, [])
        if not isinstance(items, list):
            return items
        return [fit(item, arguments[0], f"{where}[{n}]") for n, item in enumerate(items)]
    if origin is dict:
        values = _parsed(value, {})
        if not isinstance(values, dict):
            return values
        return {key: fit(item, arguments[1], f"{where}.{key}") for key, item in values.items()}
    if kind is bool and isinstance(value, str):
        lowered = value.lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else value
    return value


def _fit_struct(value: Any, kind: type[msgspec.Struct], where: str) -> Any:
    if not isinstance(value, dict):
        return value
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    fitted: dict[str, Any] = {}
    for key, item in value.items():
        place = f"{where}.{key}" if where else str(key)
        field = fields.get(key)
        if field is None:
            if kind.__struct_config__.forbid_unknown_fields:
                raise InvalidParameter(f"{place}: not supported")
            if _reads_like_a_guard(str(key), item):
                variable = f"REGISTRY_{place.upper().replace('.', '_')}"
                reason = "no such setting, and it reads as if it restricted access"
                raise InvalidParameter(f"{place} ({variable}): {reason}")
            _LOG.warning("ignored setting that has no meaning here: %s", place)
        elif item != "" or field.type is str:  # a key with nothing after it: the default
            fitted[key] = fit(item, field.type, place)
    return fitted


def _reads_like_a_guard(key: str, value: Any) -> bool:
    """Whether somebody may believe that an unknown key closes something: one of its words,
    or of the keys within, is or nearly is a word of such settings."""
    import difflib

    words = re.split(r"[^a-z0-9]+", key.lower())
    if any(
        word in _GUARDS or (len(word) > 3 and difflib.get_close_matches(word, _GUARDS, 1, 0.75))
        for word in words
    ):
        return True
    within = value.items() if isinstance(value, dict) else ()
    return any(_reads_like_a_guard(str(inner), item) for inner, item in within)


def _parsed(value: Any, empty: Any) -> Any:
    """A list or mapping that a variable gives as YAML."""
    if not isinstance(value, str):
        return value
    try:
        found = yaml.load(value, Loader=_LOADER)
    except yaml.YAMLError:
        return value
    return empty if found in (None, "") else found
