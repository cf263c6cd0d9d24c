"""An image that is a frontend: this Python, grpclib, and ``frontends/frontend.py``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import portside

FRONTEND = "portside-test/frontend:1"
_SITE = ("grpclib", "h2", "hpack", "hyperframe", "multidict", "google")
_UNUSED = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "config-*", "ensurepip", "lib2to3",
    "__pycache__", "turtledemo", "*.a", "pydoc_data", "*_codecs_[chjkt]*", "unittest", "_test*",
)  # fmt: skip


def make_frontend(docker: Callable[..., Any], directory: Path, name: str = FRONTEND) -> str:
    """Import the image; its name."""
    root = directory / "root"
    library = Path(sysconfig.get_path("stdlib"))
    program = root / "py/bin/python3"
    program.parent.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), program)
    shutil.copytree(library, root / "py/lib" / library.name, ignore=_UNUSED)
    site = root / "site"
    for package in _SITE:
        found = Path(sysconfig.get_path("purelib"), package)
        shutil.copytree(found, site / package, ignore=_UNUSED)
    own = Path(portside.__file__).parent
    for part in ("__init__.py", "builder/__init__.py", "builder/wire/__init__.py"):
        target = site / "portside" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    shutil.copytree(
        own / "builder/wire/proto", site / "portside/builder/wire/proto", ignore=_UNUSED
    )
    shutil.copy(Path(__file__).parent / "frontends/frontend.py", root / "frontend.py")
    _add_libraries(root)
    (root / "tmp").mkdir()
    archive = directory / "frontend.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    shutil.rmtree(root)
    docker(
        "import",
        "--change", 'ENTRYPOINT ["/py/bin/python3", "-B", "/frontend.py"]',
        "--change", "ENV PYTHONHOME=/py PYTHONPATH=/site LD_LIBRARY_PATH=/libs",
        str(archive), name,
    )  # fmt: skip
    archive.unlink()
    return name


def _add_libraries(root: Path) -> None:
    """What the program and its modules are linked with, in one folder; the loader in its place."""
    modules = [str(path) for path in root.rglob("*.so")]
    found = subprocess.run(
        ["ldd", str(Path(sys.executable).resolve()), *modules], capture_output=True, text=True
    ).stdout
    (root / "libs").mkdir()
    for line in set(found.splitlines()):
        if match := re.search(r"(?:=> )?(/\S+) \(0x", line):
            path = Path(match[1])
            place = root / "libs" / path.name
            if path.name.startswith("ld-linux"):
                place = root / str(path).lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
