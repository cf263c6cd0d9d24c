"""Images and registries for tests: layers made by hand, a real docker-registry on a free port."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_tar(files: dict[str, bytes | None]) -> bytes:
    """A tar of regular files; None is a directory, a name ``a -> b`` a symbolic link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_600_000_000
            if " -> " in name:
                info.name, info.linkname = name.split(" -> ")
                info.type = tarfile.SYMTYPE
            elif content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


@dataclass
class BuiltImage:
    """All bytes of an image, by digest."""

    manifest: bytes
    manifest_type: str
    config: bytes
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What an engine calls it when it came without an index."""
        return digest(self.manifest)

    @property
    def config_digest(self) -> str:
        return digest(self.config)

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def build_image(
    layers: list[dict[str, bytes | None]],
    *,
    oci: bool = False,
    compression: str = "gzip",
    run: dict[str, Any] | None = None,
    architecture: str = "amd64",
    created: str = "2024-05-01T12:00:00Z",
) -> BuiltImage:
    """An image of these layers; ``compression`` is gzip, zstd or empty."""
    blobs: dict[str, bytes] = {}
    diff_ids, descriptors = [], []
    for files in layers:
        tar = layer_tar(files)
        diff_ids.append(digest(tar))
        packed = {
            "gzip": lambda data: gzip.compress(data, 6, mtime=0),
            "zstd": lambda data: zstandard.compress(data),
            "": lambda data: data,
        }[compression](tar)
        media = OCI_LAYER + (f"+{compression}" if compression else "")
        if not oci:
            media = DOCKER_LAYER_GZIP if compression else media.replace("", "")
        blobs[digest(packed)] = packed
        descriptors.append({"mediaType": media, "digest": digest(packed), "size": len(packed)})
    config = json.dumps(
        {
            "architecture": architecture,
            "config": run or {"Cmd": ["/bin/true"]},
            "created": created,
            "history": [
                {"created": created, "created_by": f"layer {n}"} for n in range(len(layers))
            ],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    blobs[digest(config)] = config
    manifest_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {
                "mediaType": OCI_CONFIG if oci else DOCKER_CONFIG,
                "digest": digest(config),
                "size": len(config),
            },
            "layers": descriptors,
        }
    ).encode()
    return BuiltImage(manifest, manifest_type, config, blobs)


def build_index(images: list[tuple[BuiltImage, dict[str, str]]], *, oci: bool = True) -> bytes:
    """An index of images with their platforms."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX if oci else DOCKER_LIST,
            "manifests": [
                {
                    "mediaType": image.manifest_type,
                    "digest": image.digest,
                    "size": len(image.manifest),
                    "platform": platform,
                }
                for image, platform in images
            ],
        }
    ).encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def docker_registry(
    root: Path, *, htpasswd: str = "", tls: tuple[Path, Path] | None = None, proxy: str = ""
) -> Iterator[str]:
    """Debian's docker-registry on a free loopback port; yields ``127.0.0.1:port``."""
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd:
        (root / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(root / "htpasswd")}}
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if proxy:
        config["proxy"] = {"remoteurl": proxy}
    (root / "config.yml").write_text(json.dumps(config))
    log = (root / "log").open("wb")
    process = subprocess.Popen(
        ["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log
    )
    try:
        await_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        log.close()


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process listens at a port of the loopback."""
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("docker-registry did not start")


def certificate(directory: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate and its key, in PEM files."""
    directory.mkdir(parents=True, exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        f"-subj /CN=registry -keyout {key} -out {cert} "
        f"-addext subjectAltName=IP:{host},DNS:localhost".split(),
        check=True,
        capture_output=True,
    )
    return cert, key


def htpasswd_line(user: str, password: str) -> str:
    """bcrypt, the only kind docker-registry takes; as cheap as it can be."""
    import bcrypt

    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
