"""One build by buildx in engines of every kind: with user namespaces on idmapped mounts and on
copies of layers, with the vfs driver, and without root. The same owners, modes and layers
everywhere, and nothing of a secret in them."""

from __future__ import annotations

import gzip
import io
import json
import os
import pwd
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enginekit import RunningEngine
from rootlesskit import TUN, OpenTun, RootlessUser, refuse_reason

BASE = "portside/base"
SECRET = "what-no-layer-has"
PLUGINS = Path(pwd.getpwuid(os.getuid()).pw_dir, ".docker/cli-plugins")
REMAP = ("--userns-remap", "default")
ENGINES = {
    "idmapped": REMAP,
    "copied": REMAP,
    "vfs": ("--storage-driver", "vfs"),
    "vfs-mapped": ("--storage-driver", "vfs", *REMAP),
    "rootless": (),
}
DOCKERFILE = f"""
FROM {BASE} AS one
RUN echo x:x:77:88::/:/bin/sh >>/etc/passwd; echo xg:x:99: >>/etc/group; \\
    touch /r; chmod 666 /r
RUN --mount=type=secret,id=tok,required \\
    --mount=type=secret,id=tok,target=/deep/er/tok,uid=5,gid=6,mode=440 \\
    stat -c 'secret %u:%g:%a' /run/secrets/tok /deep/er/tok /deep >>/r; \\
    grep -c {SECRET} /run/secrets/tok >>/r
RUN --mount=type=ssh stat -c 'agent %u:%g:%a' $SSH_AUTH_SOCK >>/r; \\
    ls -d /deep /run/secrets 2>/dev/null || true
USER 33:44
RUN --mount=type=secret,id=tok cat /run/secrets/tok 2>/dev/null || echo denied >>/r
RUN --mount=type=secret,id=tok,env=TOK,uid=33 --mount=type=ssh,uid=33 \\
    stat -c 'agent %u:%g:%a' $SSH_AUTH_SOCK >>/r; test -w $SSH_AUTH_SOCK && echo ${{#TOK}} >>/r
RUN --mount=type=ssh test -w $SSH_AUTH_SOCK || echo denied >>/r
RUN --mount=type=cache,target=/tmp/cache,uid=33,gid=44,mode=750 --mount=type=tmpfs,target=/tmp/t \\
    touch /tmp/cache/y; stat -c 'mounts %u:%g:%a' /tmp/cache /tmp/cache/y /tmp/t >>/r
USER 0
RUN --mount=type=bind,source=sub,target=/w,rw --mount=type=bind,from={BASE},source=/etc,target=/e \\
    echo z >/w/z; chown 7:7 /w/z; stat -c 'binds %u:%g' /w /w/f /w/z /e/passwd >>/r
COPY --chown=3:4 --chmod=751 sub /c1
COPY --chown=x:xg sub/f /c2
ADD --chown=65535:65535 sub/f /c3
COPY --chown=7:8 --chmod=600 <<"EOF" <<EOF2 /h/
$one
EOF
$two
EOF2
RUN <<EOF
#!/bin/sh
stat -c '%n %u:%g:%a' /c1 /c1/f /c1/l /c2 /c3 /h/EOF /h/EOF2 >>/r
EOF
WORKDIR /work/dir
FROM {BASE}
COPY --from=one /c1 /c1
COPY --link --from=one --chown=12:13 /c2 /c2
COPY --from=one /r /r
RUN cp /bin/busybox /suid; chown 21:22 /suid; chmod 6755 /suid; ln -s q /sl; chown -h 6:7 /sl
RUN stat -c '%n %u:%g:%a' /c1 /c1/f /c2 /suid /sl >>/r
"""
WANTED = f"""
secret 0:0:400
secret 5:6:440
secret 0:0:755
1
agent 0:0:600
denied
agent 33:0:600
{len(SECRET)}
denied
mounts 33:44:750
mounts 33:44:644
mounts 0:0:1777
binds 0:0
binds 0:0
binds 7:7
binds 0:0
/c1 3:4:751
/c1/f 3:4:751
/c1/l 3:4:777
/c2 77:99:644
/c3 65535:65535:644
/h/EOF 7:8:600
/h/EOF2 7:8:600
/c1 0:0:755
/c1/f 3:4:751
/c2 12:13:644
/suid 21:22:6755
/sl 6:7:777
"""
LAYERS = [
    "c1/ 0:0 755, c1/f 3:4 751, c1/l 3:4 777",
    "c2 12:13 644",
    "r 0:0 666",
    "sl 6:7 777, suid 21:22 6755",
    "r 0:0 666",
]
Docker = Callable[..., "CompletedProcess[str]"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not (PLUGINS / "docker-buildx").exists(), reason="needs docker's buildx"),
    pytest.mark.timeout(600),
]


@pytest.fixture(params=ENGINES)
def box(
    request: pytest.FixtureRequest, docker_command: list[str], tmp_path: Path
) -> Iterator[Docker]:
    if request.param == "rootless":
        yield from _rootless()
        return
    engine = RunningEngine(*ENGINES[request.param])
    if request.param == "copied":
        engine.use_ext3()
    (tmp_path / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(PLUGINS)]}))
    env = {**os.environ, "DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(tmp_path)}

    def run(*words: str, **more: str) -> CompletedProcess[str]:
        done = subprocess.run(
            [*docker_command, *words], env={**env, **more}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    engine.start()
    try:
        yield run
    finally:
        engine.remove()


def _rootless() -> Iterator[Docker]:
    if refuse_reason() or not TUN.exists():
        pytest.skip(refuse_reason() or "/dev/net/tun is missing")
    with OpenTun():
        user = RootlessUser()
        try:
            plugins = user.home / ".docker/cli-plugins"
            user.call("mkdir", "-p", str(plugins))
            shutil.copy((PLUGINS / "docker-buildx").resolve(), plugins / "docker-buildx")
            (plugins / "docker-buildx").chmod(0o755)
            user.portside("version")
            yield user.docker
        finally:
            user.close()


@pytest.fixture
def context() -> Iterator[Path]:
    """A directory that every user reads, with a secret and an agent's socket."""
    place = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    (place / "context/sub").mkdir(parents=True)
    (place / "context/Dockerfile").write_text(DOCKERFILE)
    (place / "context/sub/f").write_text("f\n")
    (place / "context/sub/l").symlink_to("f")
    (place / "secret").write_text(SECRET)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(place / "agent"))
        agent.listen()
        (place / "agent").chmod(0o666)
        for path in (place, *place.glob("**/*")):
            if not path.is_symlink() and not path.is_socket():
                path.chmod(0o755 if path.is_dir() else 0o644)
        yield place
    shutil.rmtree(place)


def test_a_build_is_the_same_in_every_engine(box: Docker, context: Path) -> None:
    box(
        "build", "-q", "-t", "built", "--ssh", f"default={context}/agent",
        "--secret", f"id=tok,src={context}/secret", f"{context}/context",
    )  # fmt: skip
    assert box("run", "--rm", "built", "cat", "/r").stdout.split("\n") == WANTED[1:].split("\n")
    archive = context / "out/saved.tar"
    archive.parent.mkdir()
    archive.parent.chmod(0o777)
    box("save", "-o", str(archive), "built")
    layers = [layer for layer in _layers(archive) if "bin/" not in layer]
    assert [layer.removeprefix("/ 0:0 755, ") for layer in layers] == LAYERS


def _layers(archive: Path) -> list[str]:
    """What each layer has, and that the secret is in none of the archive's files."""
    found = []
    with tarfile.open(archive) as outer:
        files = {member.name: outer.extractfile(member) for member in outer if member.isfile()}
        texts = {name: file.read() for name, file in files.items() if file is not None}
        for name in json.loads(texts["manifest.json"])[0]["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(texts[name])) as layer:
                found.append(", ".join(
                    f"{one.name}{'/' * one.isdir()} {one.uid}:{one.gid} {one.mode:o}"
                    for one in sorted(layer.getmembers(), key=lambda one: one.name)
                ))  # fmt: skip
    for name, text in texts.items():
        plain = gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text
        assert SECRET.encode() not in plain, name
    return found
