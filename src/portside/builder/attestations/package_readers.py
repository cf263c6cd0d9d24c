"""Packages that are installed in a tree: Debian's, Alpine's, Python's and Node's. In job processes.

No library reads these from a folder: the scanners in use are programs in Go of hundreds of
megabytes. The databases are plain text (deb-status(5), apk's ``installed``, PyPA's core metadata,
npm's package.json), so that a few lines each read name, version and licence. The tree is hostile:
every file is opened beneath its root and read up to a bound.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from portside.model.rootfs import Rootfs
from portside.store.roots import OPEN_DIR, open_beneath, open_root
from portside.store.trees import OPEN_FILE

MAX_FILE = 64 << 20
MAX_DOCUMENT = 1 << 20
"""Bytes of one METADATA or package.json."""
MAX_PACKAGES = 200_000
MAX_DEPTH = 40


class Package(msgspec.Struct, frozen=True, order=True):
    """``kind`` is a purl type: deb, apk, pypi, npm."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    license: str = ""
    place: str = ""
    """The file that the package was read from."""


class Distribution(msgspec.Struct, frozen=True):
    id: str = ""
    version: str = ""


class Found(msgspec.Struct, frozen=True):
    distribution: Distribution
    packages: tuple[Package, ...]


def read_packages(rootfs: Rootfs) -> Found:
    root = open_root(rootfs)
    try:
        packages = {*_debian(root), *_alpine(root)}
        packages |= set(_walked(root))
        return Found(_distribution(root), tuple(sorted(packages)[:MAX_PACKAGES]))
    finally:
        os.close(root)


def _read(root: int, path: str, limit: int = MAX_FILE) -> str:
    """A file's text; empty when it does not exist or is not a regular file."""
    try:
        fd = open_beneath(root, path, OPEN_FILE & ~os.O_NOFOLLOW)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(limit).decode("utf-8", "replace")


def _distribution(root: int) -> Distribution:
    text = _read(root, "/etc/os-release", MAX_DOCUMENT) or _read(
        root, "/usr/lib/os-release", MAX_DOCUMENT
    )
    pairs = (line.partition("=") for line in text.splitlines())
    fields = {key: value.strip("\"'") for key, _, value in pairs}
    return Distribution(fields.get("ID", ""), fields.get("VERSION_ID", ""))


def _stanzas(text: str, separator: str) -> Iterator[dict[str, str]]:
    """Blocks of ``Key<separator>value``; continuation lines are left out."""
    fields: dict[str, str] = {}
    for line in (*text.splitlines(), ""):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace() and separator in line:
            key, _, value = line.partition(separator)
            fields.setdefault(key, value.strip())


def _debian(root: int) -> Iterator[Package]:
    """dpkg's status, and distroless images' ``status.d``."""
    places = ["/var/lib/dpkg/status"]
    try:
        fd = open_beneath(root, "/var/lib/dpkg/status.d", OPEN_DIR)
    except OSError:
        pass
    else:
        names = sorted(os.listdir(fd))
        os.close(fd)
        places += [f"/var/lib/dpkg/status.d/{name}" for name in names if "md5sums" not in name]
    for place in places:
        for fields in _stanzas(_read(root, place), ":"):
            if " installed" in f" {fields.get('Status', 'installed')}" and "Package" in fields:
                yield Package("deb", fields["Package"], fields.get("Version", ""),
                              fields.get("Architecture", ""), "", place)  # fmt: skip


def _alpine(root: int) -> Iterator[Package]:
    for place in ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"):
        for fields in _stanzas(_read(root, place), ":"):
            if "P" in fields:
                yield Package("apk", fields["P"], fields.get("V", ""), fields.get("A", ""),
                              fields.get("L", ""), place)  # fmt: skip


def _python(text: str, place: str) -> Package | None:
    fields = next(_stanzas(text, ":"), {})
    if not fields.get("Name"):
        return None
    return Package("pypi", fields["Name"].lower().replace("_", "-"), fields.get("Version", ""),
                   "", fields.get("License-Expression", "") or fields.get("License", ""),
                   place)  # fmt: skip


def _node(text: str, place: str) -> Package | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    version, license = found.get("version", ""), found.get("license", "")
    return Package("npm", found["name"], version if isinstance(version, str) else "", "",
                   license if isinstance(license, str) else "", place)  # fmt: skip


def _walked(root: int) -> Iterator[Package]:
    """Python's and Node's packages, wherever they are."""
    top = os.open(".", OPEN_DIR, dir_fd=root)
    yield from _inside(top, "", 0)


def _inside(fd: int, path: str, depth: int) -> Iterator[Package]:
    try:
        entries = sorted(os.listdir(fd))
        reader = _reader(path)
        for name in entries:
            if reader is not None and name == reader[0]:
                found = reader[1](_read(fd, name, MAX_DOCUMENT), f"{path}/{name}")
                if found is not None:
                    yield found
            if depth >= MAX_DEPTH or (not path and name in ("proc", "sys", "dev")):
                continue
            try:
                child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
            except OSError:
                continue
            yield from _inside(child, f"{path}/{name}", depth + 1)
    finally:
        os.close(fd)


def _reader(path: str) -> tuple[str, Callable[[str, str], Package | None]] | None:
    """The file of a directory that describes a package, and its reader; None when it has none."""
    if path.endswith(".dist-info"):
        return "METADATA", _python
    if path.endswith(".egg-info"):
        return "PKG-INFO", _python
    parent, _, name = path.rpartition("/")
    above = parent.rpartition("/")[2]
    scoped = above.startswith("@") and parent.rpartition("/")[0].endswith("node_modules")
    if (above == "node_modules" and not name.startswith((".", "@"))) or scoped:
        return "package.json", _node
    return None
