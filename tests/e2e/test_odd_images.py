"""Images that other tools made in odd but accepted ways, from load to run; dockerd 28.5.2 accepts
each of them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Docker = Callable[..., subprocess.CompletedProcess[Any]]


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **values: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755
    for key, value in values.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def layer(*odd: tuple[str, dict[str, Any]]) -> bytes:
    """A root with one program, and ``odd`` entries: name and fields of tarfile.TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        add(archive, "bin", type=tarfile.DIRTYPE)
        add(archive, "bin/busybox", Path("/bin/busybox").read_bytes())
        for name, values in odd:
            add(archive, name, **values)
    return out.getvalue()


@pytest.fixture
def load(docker: Docker, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Load an image of one layer, or none, from an archive as `docker save` wrote it before 25."""

    def make(content: bytes | None, config: dict[str, Any], **document: Any) -> str:
        diff_ids = [f"sha256:{hashlib.sha256(content).hexdigest()}"] if content else None
        text = json.dumps(
            {
                "architecture": "amd64", "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            } | document
        ).encode()  # fmt: skip
        item = {"Config": "c.json", "RepoTags": ["odd:1"], "Layers": ["l"] if content else None}
        path = tmp_path / "odd.tar"
        with tarfile.open(path, "w") as archive:
            add(archive, "c.json", text)
            if content:
                add(archive, "l", content)
            add(archive, "manifest.json", json.dumps([item]).encode())
        docker("load", "-i", str(path))
        return "odd:1"

    yield make
    docker("rmi", "-f", "odd:1", check=False)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"Entrypoint": "/bin/busybox", "Cmd": "echo"}, "\n"),
        ({"Entrypoint": ["/bin/busybox", "echo"], "Cmd": "plain"}, "plain\n"),
        ({"entrypoint": ["/bin/busybox"], "cmd": ["echo", "lower case"]}, "lower case\n"),
        ({"Cmd": ["/bin/busybox", "echo", "nulls"], "Entrypoint": None, "Env": None,
          "Volumes": None, "Labels": None, "OnBuild": None, "ExposedPorts": None}, "nulls\n"),
    ],
)  # fmt: skip
def test_odd_configurations(
    docker: Docker, load: Callable[..., str], config: dict[str, Any], said: str
) -> None:
    name = load(layer(), config, history=None, author=None, variant=None)
    assert docker("run", "--rm", "--network", "none", name).stdout == said


def test_an_image_without_layers(docker: Docker, load: Callable[..., str]) -> None:
    """``diff_ids`` and ``Layers`` are null."""
    name = load(None, {"Cmd": ["x"]})
    assert json.loads(docker("inspect", name).stdout)[0]["RootFS"]["Type"] == "layers"
    assert docker("run", "--rm", "--network", "none", name, check=False).returncode == 127
    assert docker("save", name, text=False).stdout


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize(
    "values",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/bin"},
        {"type": tarfile.SYMTYPE, "linkname": "../../../../../../../tmp"},
        {"type": tarfile.SYMTYPE, "linkname": "nowhere"},
        {"type": tarfile.REGTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
    ids=["link", "link-out", "link-to-nothing", "file", "fifo"],
)
def test_no_directory_where_the_kernel_is_mounted(
    docker: Docker, load: Callable[..., str], name: str, values: dict[str, Any]
) -> None:
    """They are mounted on directories of their own, and nothing is where the link led."""
    image = load(layer((name, values)), {})
    script = (
        "/bin/busybox cat /proc/self/comm; /bin/busybox ls -d /sys/kernel; "
        "echo x > /dev/null; /bin/busybox ls /bin"
    )
    made = docker("create", "--network", "none", image, "/bin/busybox", "sh", "-c", script)
    box = made.stdout.strip()
    try:
        done = docker("start", "-a", box)
        assert done.stdout.split() == ["busybox", "/sys/kernel", "busybox"]
        assert docker("diff", box).stdout == ""
    finally:
        docker("rm", "-f", box)
