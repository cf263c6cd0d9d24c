"""Files of a context that comes as a tar are digested while they are unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from portside.builder.solver.build_jobs import ReceiveContext
from portside.builder.solver.file_digests import FileDigests, beside
from portside.store.archive_values import Limits


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to root")
def test_digests_are_known_after_unpacking(tmp_path: Path) -> None:
    contents = {"Dockerfile": b"FROM scratch\n", "empty": b"", "d/big": os.urandom(3 << 20)}
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in (*contents.items(), ("twice", b"first"), ("twice", b"second")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    contents["twice"] = b"second"
    target = str(tmp_path / "context")
    before = os.umask(0o022)
    try:
        job = ReceiveContext(target=target, limits=Limits())
        received = job.run([os.open(archive, os.O_RDONLY)], lambda _: None)
    finally:
        os.umask(before)
    assert received.dockerfile == contents["Dockerfile"]
    known = FileDigests(beside(target), private=True)
    for name, data in contents.items():
        assert known.find(os.stat(f"{target}/{name}")) == hashlib.sha256(data).digest(), name
