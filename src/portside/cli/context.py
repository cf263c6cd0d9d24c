"""Docker's contexts: names for engines, kept below ``~/.docker/contexts``."""

from __future__ import annotations

import hashlib
import os
import re
import shutil

from portside.cli.table import table
from portside.cli.verb import verb
from portside.client.endpoint import DEFAULT_CONTEXT, Endpoint, default_socket
from portside.model import jsontext
from portside.model.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from portside.model.golang.booleans import parse_bool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.format import Columns
    from portside.cli.session import Session
    from portside.flags.table import Options

    Meta = dict[str, Any]

_TLS_FILES = ("ca", "cert", "key")
_NO_ENDPOINT = "unable to create docker endpoint config: "


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _meta_directory(session: Session, name: str) -> str:
    return f"{session.config.directory}/contexts/meta/{_key(name)}"


def _tls_directory(session: Session, name: str) -> str:
    return f"{session.config.directory}/contexts/tls/{_key(name)}"


def _read(session: Session, name: str) -> Meta:
    """Raises NotFound."""
    if name == DEFAULT_CONTEXT:
        where = os.environ.get("DOCKER_HOST") or f"unix://{default_socket()}"
        return {"Name": name, "Metadata": {},
                "Endpoints": {"docker": {"Host": where, "SkipTLSVerify": False}}}  # fmt: skip
    try:
        with open(f"{_meta_directory(session, name)}/meta.json", "rb") as file:
            value: Meta = jsontext.loads(file.read())
            return value
    except (OSError, SystemFailure):
        path = f"{_meta_directory(session, name)}/meta.json"
        raise NotFound(
            f'context "{name}": context not found: open {path}: no such file or directory'
        ) from None


def _all(session: Session) -> list[Meta]:
    found = [_read(session, DEFAULT_CONTEXT)]
    top = f"{session.config.directory}/contexts/meta"
    names = os.listdir(top) if os.path.isdir(top) else []
    for directory in names:
        try:
            with open(f"{top}/{directory}/meta.json", "rb") as file:
                found.append(jsontext.loads(file.read()))
        except (OSError, SystemFailure):
            continue
    return sorted(found, key=lambda meta: str(meta["Name"]))


def current(session: Session) -> str:
    """The context in force; ``DOCKER_HOST`` overrides what was chosen with ``use``."""
    host, chosen, _ = session._where
    if chosen:
        return chosen
    if host or os.environ.get("DOCKER_HOST"):
        return DEFAULT_CONTEXT
    return (
        os.environ.get("DOCKER_CONTEXT") or session.config.text("currentContext") or DEFAULT_CONTEXT
    )


_COLUMNS: Columns = {
    "Name": ("NAME", lambda meta, now: meta["Name"] + (" *" if meta["Name"] == now else "")),
    "Description": ("DESCRIPTION", lambda meta, _: _description(meta)),
    "DockerEndpoint": ("DOCKER ENDPOINT", lambda meta, _: _host(meta)),
    "Current": ("CURRENT", lambda meta, now: meta["Name"] == now),
    "Error": ("ERROR", lambda meta, _: ""),
}


def _description(meta: Meta) -> str:
    if meta["Name"] == DEFAULT_CONTEXT:
        return "Current DOCKER_HOST based configuration"
    return str((meta.get("Metadata") or {}).get("Description") or "")


def _host(meta: Meta) -> str:
    return str(((meta.get("Endpoints") or {}).get("docker") or {}).get("Host") or "")


@verb("context ls", "context list", usage="[OPTIONS]", about="List contexts", flags="""
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
  -q, --quiet           Print names only
""")  # fmt: skip
def ls(session: Session, options: Options, arguments: list[str]) -> None:
    found, now = _all(session), current(session)
    if options.flag("quiet"):
        session.out("\n".join(meta["Name"] for meta in found))
        _warn_of_host(session)
        return
    if options.text("format") in ("", "table"):
        rows = [[str(_COLUMNS[name][1](meta, now)) for name in list(_COLUMNS)[:3]] + [""]
                for meta in found]  # fmt: skip
        session.out(table(["NAME", "DESCRIPTION", "DOCKER ENDPOINT", "ERROR"], rows))
        _warn_of_host(session)
        return
    from portside.cli.format import print_rows

    shown = ("Name", "Description", "DockerEndpoint", "Error")
    columns = {**_COLUMNS, "Name": ("NAME", lambda meta, _: meta["Name"])}
    print_rows(session, options.text("format"), found, columns, shown, now, kind="context")


def _warn_of_host(session: Session) -> None:
    if os.environ.get("DOCKER_HOST") and not session._where[1]:
        session.warn(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a "
            "context, either set the global --context flag, or unset DOCKER_HOST environment "
            "variable."
        )


@verb("context show", about="Print the name of the current context")
def show(session: Session, options: Options, arguments: list[str]) -> None:
    session.out(current(session))


@verb("context inspect", usage="[OPTIONS] [CONTEXT...]", arguments=(0, None), flags="""
  -f, --format string   Print by a Go template, or 'json'
""", about="Show everything about contexts", completes="context")  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    found = []
    for name in arguments or [current(session)]:
        try:
            meta = _read(session, name)
        except NotFound:
            session.out("[]")
            raise
        meta["TLSMaterial"] = {}
        paths = [_meta_directory(session, name), _tls_directory(session, name)]
        if name == DEFAULT_CONTEXT:  # nowhere on the disk
            paths = ["<IN MEMORY>"] * 2
        meta["Storage"] = dict(zip(("MetadataPath", "TLSPath"), paths, strict=True))
        found.append(meta)
    format = options.text("format")
    if format and format != "json":
        from portside.cli.format import print_value

        for meta in found:
            print_value(session, format, meta)
        return
    from portside.model.golang.template.functions import escape_html

    session.out(escape_html(jsontext.dumps(found, None if format else "    ")))


@verb("context use", usage="CONTEXT", arguments=(1, 1), completes="context",
      about="Choose the context for commands called through the name docker")  # fmt: skip
def use(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    _read(session, name)
    values = session.config.values
    if name == DEFAULT_CONTEXT:
        values.pop("currentContext", None)
    else:
        values["currentContext"] = name
    session.config.save()
    session.out(name)
    session.warn(f'Current context is now "{name}"')
    if os.environ.get("DOCKER_HOST") and name != DEFAULT_CONTEXT:
        session.warn(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use "
            f'"{name}", either set the global --context flag, or unset DOCKER_HOST environment '
            "variable."
        )


_WRITING = """
      --description string   What the context is for
      --docker map           Where the engine is: host=ADDRESS, ca=FILE, cert=FILE, key=FILE,
                             skip-tls-verify=true
"""
_FROM = """
      --from string          Copy the settings of another context
"""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")


def _endpoint_values(options: Options) -> dict[str, str]:
    """``--docker host=tcp://…,ca=…``."""
    found: dict[str, str] = {}
    for name, value in options.many("docker"):
        for part in f"{name}={value}".split(","):
            key, _, setting = part.partition("=")
            if key not in ("host", "from", "skip-tls-verify", *_TLS_FILES):
                raise InvalidParameter(f"{_NO_ENDPOINT}unrecognized config key: {key}")
            found[key] = setting
    return found


def _write(session: Session, name: str, meta: Meta, values: dict[str, str]) -> None:
    docker = meta.setdefault("Endpoints", {}).setdefault("docker", {})
    if values.get("host"):
        Endpoint(values["host"])  # raises InvalidParameter
        docker["Host"] = values["host"]
    if "skip-tls-verify" in values:
        docker["SkipTLSVerify"] = parse_bool(values["skip-tls-verify"])
    docker.setdefault("Host", f"unix://{default_socket()}")
    docker.setdefault("SkipTLSVerify", False)
    files = {kind: _content(values[kind]) for kind in _TLS_FILES if values.get(kind)}
    directory = _meta_directory(session, name)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with open(f"{directory}/meta.json", "w") as file:
        file.write(jsontext.dumps(meta))
    if files:
        tls = f"{_tls_directory(session, name)}/docker"
        os.makedirs(tls, mode=0o700, exist_ok=True)
        for kind, content in files.items():
            fd = os.open(f"{tls}/{kind}.pem", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as pem:
                pem.write(content)


def _content(path: str) -> bytes:
    """A TLS file's content. Raises InvalidParameter."""
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as err:
        why = (err.strerror or "").lower()
        raise InvalidParameter(f"{_NO_ENDPOINT}open {path}: {why}") from None


def check_new(session: Session, name: str) -> None:
    """That a context of this name can be made. Raises InvalidParameter, Conflict."""
    if name == DEFAULT_CONTEXT:
        raise InvalidParameter('"default" is a reserved context name')
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'context name "{name}" is invalid, names are validated against regexp '
            '"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"'
        )
    if os.path.exists(_meta_directory(session, name)):
        raise Conflict(f'context "{name}" already exists')


@verb(
    "context create",
    usage="[OPTIONS] CONTEXT",
    arguments=(1, 1),
    flags=_WRITING + _FROM,
    about="Give an engine a name: --docker host=tcp://HOST:2376,ca=FILE,cert=FILE,key=FILE",
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    check_new(session, name)
    values = _endpoint_values(options)
    meta: Meta = {"Name": name, "Metadata": {}, "Endpoints": {}}
    source = options.text("from") or values.get("from", "")
    if source:
        meta = {**_read(session, source), "Name": name}
    if options.text("description"):
        meta["Metadata"]["Description"] = options.text("description")
    _write(session, name, meta, values)
    session.out(name)
    session.warn(f'Successfully created context "{name}"')


@verb("context update", usage="[OPTIONS] CONTEXT", arguments=(1, 1), completes="context",
      about="Change a context", flags=_WRITING)  # fmt: skip
def update(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    if name == DEFAULT_CONTEXT:
        raise InvalidParameter('"default" is a reserved context name')
    meta = _read(session, name)
    if options.given("description"):
        meta.setdefault("Metadata", {})["Description"] = options.text("description")
    _write(session, name, meta, _endpoint_values(options))
    session.out(name)
    session.warn(f'Successfully updated context "{name}"')


@verb("context rm", "context remove", usage="CONTEXT [CONTEXT...]", arguments=(1, None),
      about="Remove contexts", completes="context", flags="""
  -f, --force   Also remove the current context
""")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> int:
    def act(name: str) -> None:
        if name == DEFAULT_CONTEXT:
            raise InvalidParameter('context "default" cannot be removed')
        is_current = name == current(session)
        if not is_current and not os.path.exists(_meta_directory(session, name)):
            raise NotFound(f'context "{name}" does not exist')
        if is_current:
            if not options.flag("force"):
                raise Conflict(f'context "{name}" is in use, set -f flag to force remove')
            session.config.values.pop("currentContext", None)
            session.config.save()
        shutil.rmtree(_meta_directory(session, name), ignore_errors=is_current)
        shutil.rmtree(_tls_directory(session, name), ignore_errors=True)

    return session.each(arguments, act)
