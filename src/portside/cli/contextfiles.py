"""context export and import: a context in one file, in the docker command's format.

The archive holds ``meta.json`` and the TLS files as ``tls/<endpoint>/<name>``.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile

from portside.cli.context import _meta_directory, _read, _tls_directory, check_new
from portside.cli.verb import verb
from portside.client.endpoint import DEFAULT_CONTEXT
from portside.model import jsontext
from portside.model.errors import Conflict, InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.session import Session
    from portside.flags.table import Options

_META = "meta.json"
_LARGEST = 1 << 20
"""Bytes of a file in an archive: certificates are small."""


# -- export ----------------------------------------------------------------------------------


@verb("context export", usage="[OPTIONS] CONTEXT [FILE|-]", arguments=(1, 2), completes="context",
      about="Write a context to a file (NAME.dockercontext), or - for standard output")  # fmt: skip
def export(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    path = arguments[1] if len(arguments) > 1 else f"{name}.dockercontext"
    data = _pack(session, name)
    if path == "-":
        if session.is_terminal:
            raise InvalidParameter("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.buffer.write(data)
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"open {path}: file exists") from None
    except OSError as err:
        raise SystemFailure(f"open {path}: {(err.strerror or '').lower()}") from None
    with open(fd, "wb") as file:
        file.write(data)
    session.warn(f'Written file "{path}"')


def _pack(session: Session, name: str) -> bytes:
    if name == DEFAULT_CONTEXT:
        raise InvalidParameter(
            f'context "{name}": cannot be exported: it comes from environment variables'
        )
    meta = jsontext.dumps(_read(session, name)).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, _META, meta)
        _add(tar, "tls", None)
        for endpoint, file, data in _tls_files(_tls_directory(session, name)):
            _add(tar, f"tls/{endpoint}/{file}", data)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes | None) -> None:
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    if data is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o700
    info.size = len(data or b"")
    tar.addfile(info, io.BytesIO(data or b""))


def _tls_files(top: str) -> Iterator[tuple[str, str, bytes]]:
    for endpoint in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        for file in sorted(os.listdir(f"{top}/{endpoint}")):
            with open(f"{top}/{endpoint}/{file}", "rb") as opened:
                yield endpoint, file, opened.read()


# -- import ----------------------------------------------------------------------------------


@verb("context import", usage="CONTEXT FILE|-", arguments=(2, 2),
      about="Make a context of a tar or zip file")  # fmt: skip
def import_(session: Session, options: Options, arguments: list[str]) -> None:
    name, path = arguments
    check_new(session, name)
    try:
        data = sys.stdin.buffer.read() if path == "-" else _contents(path)
        files = _unpack(data)
        meta = jsontext.loads(files.pop(_META))
        meta["Name"] = name
    except (KeyError, TypeError, SystemFailure):
        raise InvalidParameter(f"{path}: the archive contains no meta.json of a context") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as err:
        raise InvalidParameter(f"{path}: not an archive of a context: {err}") from None
    directory = _meta_directory(session, name)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with open(f"{directory}/{_META}", "w") as file:
        file.write(jsontext.dumps(meta))
    for inner, content in files.items():
        target = f"{_tls_directory(session, name)}/{inner}"
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as opened:
            opened.write(content)
    session.out(name)
    session.warn(f'Successfully imported context "{name}"')


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST * 16)
    except OSError as err:
        raise InvalidParameter(f"open {path}: {(err.strerror or '').lower()}") from None


def _unpack(data: bytes) -> dict[str, bytes]:
    """``meta.json`` and TLS files as ``<endpoint>/<name>``. Raises InvalidParameter."""
    found = {}
    for name, size, content in _members(data):
        parts = name.removeprefix("./").split("/")
        if size > _LARGEST:
            raise InvalidParameter(f"{name} in the archive is too large for a context")
        if parts == [_META]:
            found[_META] = content
        elif len(parts) == 3 and parts[0] == "tls" and not {"", ".", ".."} & set(parts):
            found["/".join(parts[1:])] = content
        else:
            raise InvalidParameter(f"{name} in the archive: unexpected context file")
    return found


def _members(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for item in archive.infolist():
                if not item.is_dir():
                    small = item.file_size <= _LARGEST
                    yield item.filename, item.file_size, archive.read(item) if small else b""
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            opened = tar.extractfile(member)
            if opened is not None:
                yield member.name, member.size, opened.read(_LARGEST)
