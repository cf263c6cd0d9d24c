"""The embedded default image, ``portside/base``, from the machine's static busybox.

The layer is the same byte for byte each time it is made from the same busybox: entries are
sorted, times fixed, owners root. Nothing is fetched.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from portside.model.digest import Digest
from portside.model.errors import SystemFailure, Unavailable
from portside.model.image import History, ImageConfig, RootFS, RunConfig
from portside.model.platform import Platform
from portside.store import tar_format as tar
from portside.store.tar_format import Entry

NAME = "portside/base:latest"
BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/bin/busybox.static"))
CREATED = 1_704_067_200
"""2024-01-01T00:00:00Z, the time of everything in the image."""
HELP = "install Debian's package busybox-static (apt-get install busybox-static)"
MAX_SIZE = 32 << 20

DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755,
    "mnt": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "sbin": 0o755,
    "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755,
    "usr/lib": 0o755, "usr/local": 0o755, "usr/local/bin": 0o755, "usr/sbin": 0o755,
    "var": 0o755, "var/cache": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/tmp": 0o1777,
}  # fmt: skip

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
www-data:x:33:
users:x:100:
nogroup:x:65534:
"""
FILES = {
    "etc/group": (GROUP, 0o644),
    "etc/nsswitch.conf": ("passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
    "etc/os-release": (
        'ID=portside-base\nNAME="Portside base"\nPRETTY_NAME="Portside base image"\n', 0o644,
    ),
    "etc/passwd": (PASSWD, 0o644),
    "etc/shadow": ("root:*::0:::::\n", 0o640),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A layer and the configuration that goes with it."""

    layer: bytes
    """An uncompressed tar; its digest is the diff ID."""
    diff_id: Digest
    config: ImageConfig


def find_busybox() -> Path:
    """The machine's static busybox; Unavailable names the package to install."""
    found = next((path for path in BUSYBOX if path.is_file()), None)
    if found is None:
        raise Unavailable(f"the image portside/base is made from a static busybox: {HELP}")
    return found


def base_image(busybox: Path | None = None) -> BaseImage:
    """Make the image from ``busybox`` (the machine's own when None).

    Unavailable when it is missing or needs shared libraries; SystemFailure when it does
    not run here.
    """
    path = busybox or find_busybox()
    try:
        program = path.read_bytes()
    except OSError as err:
        raise Unavailable(f"cannot read {path}: {err.strerror}: {HELP}") from err
    if len(program) > MAX_SIZE or not _is_static(program):
        raise Unavailable(f"{path} is not a statically linked program: {HELP}")
    layer = _layer(program, _applets(path))
    diff_id = Digest.of(layer)
    return BaseImage(layer, diff_id, _config(diff_id))


def _is_static(program: bytes) -> bool:
    """An ELF file whose program headers ask for no interpreter (elf(5), PT_INTERP)."""
    if program[:4] != b"\x7fELF" or len(program) < 64:
        return False
    order = "little" if program[5] == 1 else "big"
    wide = program[4] == 2
    at, size, count = (32, 54, 56) if wide else (28, 42, 44)
    offset = int.from_bytes(program[at : at + (8 if wide else 4)], order)  # type: ignore[arg-type]
    length = int.from_bytes(program[size : size + 2], order)  # type: ignore[arg-type]
    number = int.from_bytes(program[count : count + 2], order)  # type: ignore[arg-type]
    kinds = (
        int.from_bytes(program[start : start + 4], order)  # type: ignore[arg-type]
        for start in range(offset, offset + number * length, length or 1)
    )
    return 3 not in kinds


def _applets(path: Path) -> list[str]:
    """The paths of busybox's applets; busybox itself lists the ones it was built with."""
    try:
        done = subprocess.run(
            [path, "--list-full"], capture_output=True, check=True, timeout=10, env={}
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise SystemFailure(f"{path} --list-full failed: {err}: {HELP}") from err
    names = {os.path.normpath(line) for line in done.stdout.decode().split()}
    return sorted(name for name in names if "/" in name and not name.startswith((".", "/")))


def _layer(program: bytes, applets: list[str]) -> bytes:
    entries: dict[str, tuple[Entry, bytes]] = {}

    def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
        slash = b"/" if kind == tar.DIRTYPE else b""
        entry = Entry(
            name.encode() + slash, kind, mode, size=len(data), mtime=CREATED * 10**9,
            linkname=link.encode(),
        )  # fmt: skip
        entries[name] = entry, data

    for name in applets:
        up = "../" * name.count("/") if not name.startswith("bin/") else ""
        add(name, tar.SYMTYPE, 0o777, link="busybox" if not up else f"{up}bin/busybox")
    for name, mode in DIRECTORIES.items():
        if name:
            add(name, tar.DIRTYPE, mode)
    for name, (text, mode) in FILES.items():
        add(name, tar.REGTYPE, mode, text.encode())
    add("bin/busybox", tar.REGTYPE, 0o755, program)
    parts = []
    for name in sorted(entries):
        entry, data = entries[name]
        parts += [tar.build(entry), data, bytes(tar.padding(len(data)))]
    return b"".join(parts) + bytes(2 * tar.BLOCK)


def _config(diff_id: Digest) -> ImageConfig:
    host = Platform.host()
    created = "2024-01-01T00:00:00Z"
    return ImageConfig(
        architecture=host.architecture,
        os="linux",
        variant=host.variant,
        created=created,
        config=RunConfig(
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
            cmd=("sh",),
        ),
        history=(History(created=created, created_by="portside: base image from busybox"),),
        rootfs=RootFS(diff_ids=(str(diff_id),)),
    )
