"""A real dockerd beside ours, and a way to compare what both make of an image."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from imagekit import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, BuiltImage, digest

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


class Peer:
    """Debian's dockerd with directories of its own, no bridge and no firewall rules."""

    def __init__(self) -> None:
        program = shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None or os.geteuid() != 0:
            pytest.skip("needs dockerd, and root to start it")
        self.root = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
        self.host = f"unix://{self.root}/s"
        self.data_root = self.root / "d"
        self._log = (self.root / "log").open("wb")
        (self.root / "daemon.json").write_text("{}")
        # a mount namespace of its own: whatever it mounts goes with it
        self.process = subprocess.Popen(
            [
                "unshare", "-m", "--propagation", "private", program, "--host", self.host,
                "--data-root", str(self.data_root), "--exec-root", str(self.root / "x"),
                "--pidfile", str(self.root / "pid"), "--bridge", "none", "--iptables=false",
                "--ip6tables=false", "--config-file", str(self.root / "daemon.json"),
                "--storage-driver", "overlay2",
            ],
            stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            if "API listen on" in (self.root / "log").read_text(errors="replace"):
                return
            time.sleep(0.05)
        said = (self.root / "log").read_text(errors="replace")[-1000:]
        self.close()
        pytest.skip(f"dockerd does not start here: {said}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def lowers(self, docker: Docker, name: str) -> list[str]:
        """Directories of an image's layers, topmost first."""
        data = json.loads(docker("image", "inspect", name).stdout)[0]["GraphDriver"]["Data"]
        return [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]


_SNAPSHOT = """
import hashlib, json, os, stat, subprocess, sys, tempfile
lowers = sys.argv[1:]
base = tempfile.mkdtemp(dir="/tmp")
top, empty = base + "/m", base + "/e"
os.mkdir(top); os.mkdir(empty)
options = "lowerdir=" + ":".join([*lowers, empty])
subprocess.run(["mount", "-t", "overlay", "-o", "ro," + options, "none", top], check=True)
tree, inodes = {}, {}
for directory, names, files in os.walk(top):
    for name in [*names, *files, ""]:
        path = os.path.join(directory, name) if name else directory
        key = os.path.relpath(path, top)
        if key in tree: continue
        s = os.lstat(path)
        kind = stat.S_IFMT(s.st_mode)
        entry = [oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns]
        if stat.S_ISREG(kind):
            with open(path, "rb") as file:
                entry.append(hashlib.file_digest(file, "sha256").hexdigest())
            entry.append(s.st_size)
            if s.st_nlink > 1:
                inodes.setdefault(s.st_ino, []).append(key)
        elif stat.S_ISLNK(kind): entry.append(os.readlink(path))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK): entry.append(s.st_rdev)
        entry.append({k: os.getxattr(path, k, follow_symlinks=False).hex()
                      for k in os.listxattr(path, follow_symlinks=False)
                      if not k.startswith("trusted.overlay.")})
        tree[key] = entry
subprocess.run(["umount", top], check=True)
os.rmdir(top); os.rmdir(empty); os.rmdir(base)
print(json.dumps({"tree": tree, "links": sorted(sorted(g) for g in inodes.values())}))
"""


def snapshot(lowers: Sequence[str], without_root: bool = True) -> dict[str, Any]:
    """Everything about a stack of layers as a user of a container would see it."""
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", _SNAPSHOT, *lowers],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if without_root:
        found["tree"]["."][3] = 0  # the root's time, when no layer tells it
    return found


def config_digest(data_root: Path, docker: Docker, name: str) -> str:
    """What engines without containerd's image store know our image by."""
    identifier = json.loads(docker("image", "inspect", name).stdout)[0]["Id"]

    def read(digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (data_root / "blobs" / digest.replace(":", "/")).read_bytes()
        )
        return found

    document = read(identifier)
    if "manifests" in document:
        document = read(document["manifests"][0]["digest"])
    found: str = document["config"]["digest"]
    return found


def our_lowers(data_root: Path, docker: Docker, name: str) -> list[str]:
    """Directories of an image's layers in our store, topmost first."""
    import hashlib

    diff_ids = json.loads(docker("image", "inspect", name).stdout)[0]["RootFS"]["Layers"]
    chains: list[str] = []
    for diff_id in diff_ids:
        chain = diff_id
        if chains:
            text = f"{chains[-1]} {diff_id}".encode()
            chain = "sha256:" + hashlib.sha256(text).hexdigest()
        chains.append(chain)
    return [f"{data_root}/layers/{chain.partition(':')[2]}/diff" for chain in reversed(chains)]


# -- an image with everything in it ---------------------------------------------------------------

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep as the kernel keeps it (capabilities(7))."""


def _entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mtime = kind, more.pop("mtime", 1_600_000_000.123456789)
    info.mode = more.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    for key, value in more.items():
        setattr(info, key, value)
    return info


def _xattrs(**values: bytes) -> dict[str, str]:
    return {
        f"SCHILY.xattr.{key.replace('__', '.')}": value.decode("latin-1")
        for key, value in values.items()
    }


def _tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def rich_layers(seed: bytes = b"") -> list[bytes]:
    """Two layers' tars: every kind of entry, then every kind of change."""
    long = "long/" + "/".join(["d" * 100] * 3) + "/" + "f" * 200
    first = [
        (_entry("bin", tarfile.DIRTYPE), b""),
        (_entry("bin/tool", mode=0o4755, uid=0, gid=0), b"#!/bin/sh\n" + seed),
        (
            _entry("bin/ping", mode=0o755, pax_headers=_xattrs(security__capability=CAPABILITY)),
            b"p",
        ),
        (_entry("bin/alias", tarfile.LNKTYPE, linkname="bin/tool", mode=0o4755), b""),
        (_entry("bin/sh", tarfile.SYMTYPE, linkname="../../../../bin/tool", mode=0o777), b""),
        (_entry("shared", tarfile.DIRTYPE, mode=0o2775, uid=1000, gid=2000), b""),
        (_entry("shared/mine", uid=70000, gid=4_000_000, mode=0o600), b"x" * 5000),
        (_entry("shared/attributes", pax_headers=_xattrs(user__note=b"kept")), b"a"),
        (_entry("tmp", tarfile.DIRTYPE, mode=0o1777), b""),
        (_entry("dev", tarfile.DIRTYPE), b""),
        (_entry("dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3), b""),
        (_entry("dev/disk", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=259, devminor=300), b""),
        (_entry("dev/pipe", tarfile.FIFOTYPE, mode=0o600), b""),
        *((_entry(part, tarfile.DIRTYPE), b"") for part in _parents(long)),
        (_entry(long), b"long"),
        (_entry("na\u00efve \u540d", tarfile.DIRTYPE), b""),
        (_entry("na\u00efve \u540d/\u00fc \n.txt"), b"unicode"),
        (_entry("old", mtime=0), b""),
        (_entry("gone", tarfile.DIRTYPE), b""),
        (_entry("gone/file"), b"1"),
        (_entry("opaque", tarfile.DIRTYPE), b""),
        (_entry("opaque/lower"), b"1"),
        (_entry("file-to-dir"), b"1"),
        (_entry("dir-to-file", tarfile.DIRTYPE), b""),
        (_entry("dir-to-file/inside"), b"1"),
        (_entry("big"), os.urandom(1 << 20) if not seed else seed * 4096),
    ]
    second = [
        (_entry(".wh.gone"), b""),
        (_entry("opaque", tarfile.DIRTYPE, mode=0o700), b""),
        (_entry("opaque/.wh..wh..opq"), b""),
        (_entry("opaque/upper"), b"2"),
        (_entry("file-to-dir", tarfile.DIRTYPE), b""),
        (_entry("file-to-dir/inside"), b"2"),
        (_entry("dir-to-file"), b"2"),
        (_entry("bin", tarfile.DIRTYPE, mode=0o711), b""),
        (_entry("bin/.wh.alias"), b""),
        (_entry("bin/tool", mode=0o755, uid=5), b"replaced"),
        (_entry("shared/", tarfile.DIRTYPE, mode=0o750, uid=1, gid=1), b""),
    ]
    return [_tar(first), _tar(second)]


def image_of(layers: Sequence[bytes], **run: Any) -> BuiltImage:
    """An OCI image of uncompressed layers, compressed with gzip."""
    import gzip

    blobs, descriptors, diff_ids = {}, [], []
    for tar in layers:
        packed = gzip.compress(tar, 1, mtime=0)
        blobs[digest(packed)] = packed
        diff_ids.append(digest(tar))
        descriptors.append(
            {"mediaType": f"{OCI_LAYER}+gzip", "digest": digest(packed), "size": len(packed)}
        )
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "created": "2024-05-01T12:00:00Z",
            "config": {"Cmd": ["/bin/true"], "Labels": {"made": "by hand"}, **run},
            "history": [{"created": "2024-05-01T12:00:00Z", "created_by": "x"} for _ in layers],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()  # fmt: skip
    blobs[digest(config)] = config
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest(config), "size": len(config)},
            "layers": descriptors,
        }
    ).encode()
    return BuiltImage(manifest, OCI_MANIFEST, config, blobs)


def publish(host: str, name: str, tag: str, image: BuiltImage) -> None:
    """Put an image into a registry without credentials, by the distribution-spec."""
    from urllib.request import Request, urlopen

    base = f"http://{host}/v2/{name}"
    for key, data in image.blobs.items():
        with urlopen(Request(f"{base}/blobs/uploads/", method="POST", data=b"")) as answer:
            place = answer.headers["Location"]
        place = place if "://" in place else f"http://{host}{place}"
        url = f"{place}{'&' if '?' in place else '?'}digest={key}"
        headers = {"Content-Type": "application/octet-stream"}
        urlopen(Request(url, method="PUT", data=data, headers=headers)).close()
    headers = {"Content-Type": image.manifest_type}
    url = f"{base}/manifests/{tag}"
    urlopen(Request(url, method="PUT", data=image.manifest, headers=headers)).close()
