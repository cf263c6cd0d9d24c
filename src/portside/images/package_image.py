"""A root file system that runs a program of this very package: the layers of
``portside/registry`` and ``portside/monitor``.

It is put together from the machine's own interpreter: its standard library, the installed
distributions the program needs and the shared libraries they load. Nothing is fetched.
Paths inside are fixed (``/usr/local``), times are zero and entries sorted, so that the same
interpreter and packages give the same digest.

Python files are compiled beforehand and their sources left out: a new container would compile
all that it imports at each start. Libraries lose their symbols and debugging sections.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from portside.model.errors import SystemFailure

HOME = PurePosixPath("/usr/local")
CONFIG = PurePosixPath("/etc/docker/registry/config.yml")
"""The path of the registry's settings, as in other registries' images."""
_SETTINGS = b"""\
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
"""


class Program(msgspec.Struct, frozen=True):
    """One program that becomes an image."""

    name: str
    """Name of the image and, with a dash, of the command in it: ``portside/registry``."""
    entry: str
    """The module whose ``main`` is called."""
    needed: tuple[str, ...]
    """Distributions that it imports."""
    folders: frozenset[str]
    """Folders of this package that it imports."""
    probed: tuple[str, ...]
    """Modules that load every shared library it needs."""
    kept: frozenset[str] = frozenset()
    """Modules of :data:`_LEFT_OUT` that this program needs."""

    @property
    def command(self) -> str:
        return self.name.replace("/", "-")


_PROBED = ("ssl", "hashlib", "socket", "zlib", "bz2", "lzma", "ctypes", "uuid", "select",
           "bcrypt", "yaml")  # fmt: skip
REGISTRY = Program(
    name="portside/registry",
    entry="portside.registry.server.__main__",
    needed=("aiohttp", "bcrypt", "msgspec", "prometheus-client", "PyJWT", "PyYAML", "portside"),
    folders=frozenset(("registry", "serving", "flags", "model")),
    probed=("portside.registry.server.app", "portside.registry.server.proxy", "jwt", *_PROBED),
)
MONITOR = Program(
    name="portside/monitor",
    entry="portside.monitor.__main__",
    needed=("aiohttp", "bcrypt", "msgspec", "PyYAML", "portside"),
    folders=frozenset(("monitor", "client", "serving", "kernel", "flags", "model")),
    probed=("portside.monitor.program", "sqlite3", *_PROBED),
    kept=frozenset(("sqlite3",)),
)
_LIBRARY = HOME / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = str(HOME / "bin" / "python3")
_LEFT_OUT = frozenset(
    ("test", "tests", "unittest", "distutils", "idlelib", "tkinter", "turtledemo",
     "ensurepip", "lib2to3", "site-packages",
     "dist-packages", "__pycache__", "pydoc_data", "config", "sqlite3", "curses", "dbm", "xml",
     "xmlrpc", "multiprocessing", "msilib", "venv", "turtle.py", "pydoc.py", "doctest.py",
     "mailbox.py", "pdb.py", "_pydecimal.py", "imaplib.py", "nntplib.py", "tarfile.py",
     "zipapp.py", "smtplib.py", "ftplib.py", "telnetlib.py", "this.py", "antigravity.py")
)  # fmt: skip
"""Parts of the standard library (and of packages) that a server has no use for."""
_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
maps = open("/proc/self/maps").read().split("\\n")
print(json.dumps(sorted({line.split(maxsplit=5)[5] for line in maps if ".so" in line})))
"""


def _script(program: Program) -> str:
    return f"""\
#!{PYTHON} -IS
# The first process of a container dies of no signal it does not handle (pid_namespaces(7)),
# so SIGTERM and SIGINT are handled before anything else is imported.
import _signal
import posix
import sys

for number in (_signal.SIGTERM, _signal.SIGINT):
    _signal.signal(number, lambda *_: posix._exit(0))
sys.path.append("{_LIBRARY}/site-packages")
from {program.entry} import main

sys.exit(main())
"""


Source = Path | bytes | PurePosixPath
"""A file of this machine, a file's content, or where a symbolic link points."""


def write_layer(out: BinaryIO, program: Program) -> None:
    """Write a program's layer as an uncompressed tar.

    Raises SystemFailure when something is missing.
    """
    files = dict(_everything(program))
    made: set[PurePosixPath] = set()
    with (
        tempfile.TemporaryDirectory(prefix="portside-image-") as directory,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        files = _compiled(files, Path(directory))
        for target in sorted(files, key=str):
            for parent in reversed(target.parents):
                if parent not in made and parent != PurePosixPath("/"):
                    made.add(parent)
                    _add(archive, parent, None)
            _add(archive, target, files[target])


def _add(archive: tarfile.TarFile, target: PurePosixPath, source: Source | None) -> None:
    """One entry, owned by root, from 1970; None is a directory, bytes are a file's content, a
    pure path is a symbolic link's target."""
    info = tarfile.TarInfo(str(target).lstrip("/"))
    info.mode = 0o755
    if source is None:
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    elif isinstance(source, PurePosixPath) and not isinstance(source, Path):
        info.type, info.linkname = tarfile.SYMTYPE, str(source)
        archive.addfile(info)
    elif isinstance(source, bytes):
        info.size = len(source)
        archive.addfile(info, io.BytesIO(source))
    else:
        info.mode = 0o755 if os.access(source, os.X_OK) else 0o644
        data = _stripped(source.read_bytes())
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def _compiled(files: dict[PurePosixPath, Source], directory: Path) -> dict[PurePosixPath, Source]:
    """The files, with compiled ones in place of Python sources that can be compiled."""
    found: dict[PurePosixPath, Source] = {}
    lines: list[str] = []
    for target in sorted(files, key=str):
        source = files[target]
        if target.suffix != ".py" or not isinstance(source, Path):
            found[target] = source
            continue
        made = directory / str(len(lines))
        lines.append(f"{source}\0{target}\0{made}")
        found[target.with_suffix(".pyc")] = made
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", str(Path(__file__).with_name("bytecode.py"))],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": "0"},
    )
    if run.returncode:
        raise SystemFailure(f"the image cannot be made: {run.stderr.strip()[-500:]}")
    return found


def _stripped(data: bytes) -> bytes:
    """An ELF file (64 bits, little-endian) without what only debuggers and linkers read.

    That is what lies behind the last segment: symbols, debugging information, the table of
    sections. The loader reads the segments only (elf(5)). Anything else is left as it is.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return data
    offset, size, count = (
        int.from_bytes(data[start : start + width], "little")
        for start, width in ((0x20, 8), (0x36, 2), (0x38, 2))
    )
    end = offset + size * count
    for number in range(count):
        entry = data[offset + number * size :][:size]
        start, length = (int.from_bytes(entry[at : at + 8], "little") for at in (0x08, 0x20))
        end = max(end, start + length)
    if size < 0x38 or not count or end > len(data):
        return data
    # e_shoff, and e_shentsize, e_shnum and e_shstrndx: no sections
    return data[:0x28] + bytes(8) + data[0x30:0x3A] + bytes(6) + data[0x40:end]


def _everything(program: Program) -> Iterator[tuple[PurePosixPath, Source]]:
    """Where each file goes and where it comes from."""
    interpreter = Path(sys.executable).resolve()
    yield PurePosixPath(PYTHON), interpreter
    for name in ("stdlib", "platstdlib"):
        base = Path(sysconfig.get_path(name, vars={"installed_base": sys.base_prefix}))
        files = _walk(base, program.kept)
        yield from ((_LIBRARY / found.relative_to(base), found) for found in files)
    packages = _LIBRARY / "site-packages"
    for distribution in _closure(program.needed):
        for relative, found in _files_of(distribution):
            yield packages / relative, found
    own = Path(__file__).resolve().parents[1]
    for found in _walk(own):
        inside = found.relative_to(own)
        if len(inside.parts) == 1 or inside.parts[0] in program.folders:
            yield packages / "portside" / inside, found
    for library in _libraries(program):
        yield PurePosixPath(library), Path(library).resolve()
    command = HOME / "bin" / program.command
    yield command, _script(program).encode()
    if program is REGISTRY:  # as other registries' images have them
        yield PurePosixPath("/bin/registry"), command
        yield CONFIG, _SETTINGS
        yield PurePosixPath("/etc/distribution"), CONFIG.parent


def _walk(base: Path, kept: frozenset[str] = frozenset()) -> Iterator[Path]:
    left_out = _LEFT_OUT - kept
    for directory, names, files in os.walk(base):
        names[:] = [
            name for name in names if name not in left_out and not name.startswith("config-")
        ]
        for name in files:
            path = Path(directory, name)
            if name not in left_out and path.is_file() and path.suffix not in (".pyc", ".a"):
                yield path


def _closure(names: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The named distributions and all they require here; missing ones are named."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found or name == "portside":
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as err:
            raise SystemFailure(
                f"the image cannot be made: the package {name} is not installed"
            ) from err
        found[name] = distribution
        for requirement in distribution.requires or ():
            wanted, _, condition = requirement.partition(";")
            match = re.match(r"[A-Za-z0-9._-]+", wanted)
            if match and "extra" not in condition and _applies(match[0], condition):
                pending.append(match[0])
    return [found[name] for name in sorted(found)]


def _applies(name: str, condition: str) -> bool:
    """A conditional requirement counts when it is installed."""
    if not condition.strip():
        return True
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _files_of(
    distribution: importlib.metadata.Distribution,
) -> Iterator[tuple[PurePosixPath, Path]]:
    for entry in distribution.files or ():
        relative = PurePosixPath(entry)
        path = Path(str(distribution.locate_file(entry)))
        if ".." in relative.parts or relative.suffix == ".pyc" or not path.is_file():
            continue  # scripts beside site-packages, caches
        yield relative, path


def _libraries(program: Program) -> list[str]:
    """Paths of the shared libraries that the program's process has mapped, and their loader."""
    run = subprocess.run(
        [sys.executable, "-c", _PROBE, *program.probed], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemFailure(f"the image cannot be made: {run.stderr.strip()[-500:]}")
    inside = (sys.prefix, sys.base_prefix)
    mapped: list[str] = json.loads(run.stdout)
    libraries = [path for path in mapped if not _within(path, inside) or "libpython" in path]
    return [_loaded_as(path) for path in libraries] + _loader()


def _within(path: str, prefixes: Iterable[str]) -> bool:
    return any(path.startswith(f"{prefix}/lib/python") for prefix in prefixes)


def _loaded_as(path: str) -> str:
    """The name programs ask for: libraries are mapped by their full version's path."""
    file = Path(path)
    for entry in sorted(file.parent.iterdir(), key=lambda entry: len(entry.name)):
        versioned = re.fullmatch(r".*\.so\.\d+", entry.name)
        if versioned and entry != file and entry.resolve() == file:
            return str(entry)
    return path


def _loader() -> list[str]:
    """The ELF interpreter that the executable names, and the resolver's module for DNS."""
    data = Path(sys.executable).resolve().read_bytes()[:4096]
    match = re.search(rb"/lib[\w/.-]*/ld-linux[\w.-]*\.so\.\d+", data)
    return [match[0].decode()] if match else []


def library_path(tar_names: Iterable[str]) -> str:
    """LD_LIBRARY_PATH for libraries outside the loader's default directories."""
    default = re.compile(r"/?(usr/)?lib(64)?(/[\w]+-linux-gnu\w*)?$")
    directories = {
        "/" + str(PurePosixPath(name).parent).lstrip("/") for name in tar_names if ".so" in name
    }
    return ":".join(sorted(d for d in directories if not default.match(d) and "python3" not in d))
