"""Volumes and mounts with the real docker CLI."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"


class Made:
    """Volumes and containers of one test, removed afterwards; ``sh`` runs in a container."""

    def __init__(self, docker: Docker, prefix: str, image: str) -> None:
        self.docker, self.prefix, self.image = docker, prefix, image
        self.containers: list[str] = []
        self.volumes: list[str] = []

    def volume(self, name: str, *options: str) -> str:
        full = f"{self.prefix}-{name}"
        self.volumes.append(full)
        self.docker("volume", "create", *options, full)
        return full

    def sh(self, command: str, *options: str, image: str = BASE) -> str:
        return self.docker("run", "--rm", *options, image, "sh", "-c", command).stdout.strip()

    def refused(self, *options: str) -> str:
        """What ``run`` says that must fail before the command starts."""
        done = self.docker("run", "--rm", *options, BASE, "true", check=False)
        assert done.returncode in (125, 126, 127), done
        return done.stderr

    def container(self, name: str, *options: str, image: str = BASE) -> str:
        full = f"{self.prefix}-{name}"
        self.containers.append(full)
        self.docker("run", "-d", "--name", full, *options, image, "sleep", "1000")
        return full

    def remove(self) -> None:
        if self.containers:
            self.docker("rm", "-f", "-v", *self.containers, check=False)
        if self.volumes:
            self.docker("volume", "rm", "-f", *self.volumes, check=False)


@pytest.fixture(scope="module")
def image(docker: Docker, base: str) -> Iterator[str]:
    """An image with a VOLUME that has content, and with hostile links."""
    name = "volumes-test"
    box = docker("create", base, "true").stdout.strip()
    raw = subprocess_export(docker, box)
    docker("rm", box)
    with tarfile.open(fileobj=io.BytesIO(raw)) as source:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as target:
            for member in source:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
            _add(target, "srv/data", tarfile.DIRTYPE, mode=0o750, uid=1000, gid=1001)
            _add(target, "srv/data/file", tarfile.REGTYPE, data=b"from the image\n", uid=1000)
            _add(target, "srv/data/sub", tarfile.DIRTYPE, mode=0o700, uid=1002)
            _add(target, "srv/data/link", tarfile.SYMTYPE, link="file")
            _add(target, "evil", tarfile.SYMTYPE, link="../../../../../../tmp/ps-evil-target")
            _add(target, "evilroot", tarfile.SYMTYPE, link="/")
    change = ("--change", "VOLUME /srv/data")
    docker("import", *change, "-", name, input=out.getvalue(), text=False)
    yield name
    docker("rmi", "-f", name, check=False)


def subprocess_export(docker: Docker, box: str) -> bytes:
    done: Any = docker("export", box, text=False)
    return bytes(done.stdout)


def _add(
    target: tarfile.TarFile, name: str, kind: bytes, *, mode: int = 0o644, uid: int = 0,
    gid: int = 0, data: bytes = b"", link: str = "",
) -> None:  # fmt: skip
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gid = kind, mode, uid, gid
    member.size, member.linkname = len(data), link
    target.addfile(member, io.BytesIO(data) if data else None)


@pytest.fixture
def made(docker: Docker, image: str, request: pytest.FixtureRequest) -> Iterator[Made]:
    prefix = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:30]
    found = Made(docker, prefix, image)
    yield found
    found.remove()


@pytest.fixture
def host_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ps-volumes-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_create_inspect_and_list(docker: Docker, made: Made) -> None:
    one = made.volume("one", "--label", "a=b")
    two = made.volume("two", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000")
    assert docker("volume", "create", one).stdout == f"{one}\n", "again is no error"
    found = json.loads(docker("volume", "inspect", two).stdout)[0]
    assert found["Options"] == {"device": "tmpfs", "o": "size=1m,uid=1000", "type": "tmpfs"}
    assert found["Mountpoint"].endswith(f"/volumes/{two}/_data") and found["Scope"] == "local"

    def listed(*filters: str) -> list[str]:
        options = [part for text in filters for part in ("-f", text)]
        return docker("volume", "ls", "-q", *options).stdout.split()

    assert listed("label=a=b") == [one] and listed(f"name={made.prefix}") == [one, two]
    box = made.container("box", "-v", f"{one}:/x")
    assert listed(f"name={made.prefix}", "dangling=true") == [two]
    in_use = docker("volume", "rm", one, check=False).stderr
    identifier = docker("inspect", "-f", "{{.Id}}", box).stdout.strip()
    assert f"remove {one}: volume is in use - [{identifier}]" in in_use
    assert "volume is in use" in docker("volume", "rm", "-f", one, check=False).stderr
    docker("rm", "-f", box)
    assert docker("volume", "rm", one).stdout == f"{one}\n"
    assert f"get {one}: no such volume" in docker("volume", "rm", one, check=False).stderr
    assert docker("volume", "rm", "-f", one).returncode == 0


def test_refusals_speak_as_docker(docker: Docker, made: Made) -> None:
    for options, words in (
        (("-d", "nosuch", "xx"), 'plugin "nosuch" not found'),
        (("x",), "volume name is too short"),
        (("a/b",), "includes invalid characters for a local volume name"),
        (("-o", "color=red", "xx"), 'invalid option: "color"'),
        (("-o", "type=tmpfs", "xx"), 'missing required option: "device"'),
    ):
        assert words in docker("volume", "create", *options, check=False).stderr
    sized = docker("volume", "create", "-o", "size=1m", f"{made.prefix}-q", check=False)
    made.volumes.append(f"{made.prefix}-q")
    assert sized.returncode == 0 or "quota" in sized.stderr
    for options, words in (
        (("-v", "vv:/x:bogus"), "invalid mode: bogus"),
        (("-v", "vv:relative"), "mount path must be absolute"),
        (("-v", "vv:/"), "destination can't be '/'"),
        (("-v", "/tmp:/x", "-v", "/var:/x"), "Duplicate mount point: /x"),
        (("--mount", "type=bind,src=/nosuch-at-all,dst=/x"), "bind source path does not exist"),
        (("--mount", "type=npipe,src=/a,dst=/x"), "mount type unknown"),
        (("--mount", "type=tmpfs,src=/a,dst=/x"), "field Source must not be specified"),
        (("--mount", "type=image,src=nosuch-image,dst=/x"), "No such image"),
        (("--volumes-from", "nosuch-container"), "No such container: nosuch-container"),
    ):
        assert words in made.refused(*options), options


def test_copy_up_of_the_images_content(docker: Docker, made: Made, host_dir: Path) -> None:
    named, empty = made.volume("named"), made.volume("empty")
    listing = (
        "stat -c '%u %g %a %F' /srv/data /srv/data/file /srv/data/sub; readlink /srv/data/link"
    )
    seen = made.sh(listing, "-v", f"{named}:/srv/data", image=made.image)
    assert seen.splitlines() == [
        "1000 1001 750 directory", "1000 0 644 regular file", "1002 0 700 directory", "file",
    ]  # fmt: skip
    made.sh("echo mine > /srv/data/file", "-v", f"{named}:/srv/data", image=made.image)
    again = ("cat /srv/data/file", "-v", f"{named}:/srv/data")
    assert made.sh(*again, image=made.image) == "mine", "what a volume holds stays"
    ls = "ls -A /srv/data"
    assert made.sh(ls, "-v", f"{empty}:/srv/data:nocopy", image=made.image) == ""
    mount = f"type=volume,src={empty},dst=/srv/data,volume-nocopy"
    assert made.sh(ls, "--mount", mount, image=made.image) == ""
    assert made.sh(ls, "-v", f"{host_dir}:/srv/data", image=made.image) == "", "binds are as found"
    assert made.sh(ls, image=made.image).split() == ["file", "link", "sub"], "anonymous"


def test_anonymous_volumes_go_with_rm_v(docker: Docker, made: Made) -> None:
    def anonymous(box: str) -> list[str]:
        mounts = json.loads(docker("inspect", "-f", "{{json .Mounts}}", box).stdout)
        return [m["Name"] for m in mounts if re.fullmatch("[0-9a-f]{64}", m.get("Name", ""))]

    def exists(name: str) -> bool:
        return docker("volume", "inspect", name, check=False).returncode == 0

    one = made.container("one", "-v", "/anon", image=made.image)
    names = anonymous(one)
    assert len(names) == 2
    two = made.container("two", "--volumes-from", one)
    docker("rm", "-f", "-v", one)
    assert all(map(exists, names)), "another container uses them"
    docker("rm", "-f", "-v", two)
    three = made.container("three", "-v", "/anon")
    (name,) = anonymous(three)
    docker("rm", "-f", three)
    assert exists(name)
    docker("volume", "rm", name, *filter(exists, names))


def test_volumes_from(docker: Docker, made: Made, host_dir: Path) -> None:
    volume = made.volume("v")
    source = made.container("src", "-v", f"{volume}:/one", "-v", f"{host_dir}:/two:ro")
    docker("exec", source, "sh", "-c", "echo 1 > /one/file")
    script = "cat /one/file; touch /one/more && echo wrote; touch /two/x || echo refused"
    seen = made.sh(script, "--volumes-from", source)
    assert seen.splitlines() == ["1", "wrote", "refused"]
    assert made.sh("touch /one/y || echo refused", "--volumes-from", f"{source}:ro") == "refused"


def test_driver_options(docker: Docker, made: Made, host_dir: Path) -> None:
    ram = made.volume("ram", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000")
    seen = made.sh("grep ' /x ' /proc/mounts; stat -c %u /x", "-v", f"{ram}:/x")
    assert "size=1024k" in seen and seen.endswith("1000")
    one = made.container("one", "-v", f"{ram}:/x")
    docker("exec", one, "touch", "/x/shared")
    assert made.sh("ls /x", "-v", f"{ram}:/x") == "shared", "one file system for all who run"
    docker("rm", "-f", one)
    assert made.sh("ls /x", "-v", f"{ram}:/x") == "", "gone with its last user"
    bind = ("-o", "type=none", "-o", "o=bind")
    (host_dir / "f").write_text("x")
    bound = made.volume("bound", *bind, "-o", f"device={host_dir}")
    assert made.sh("ls /x", "-v", f"{bound}:/x") == "f"
    readonly = made.volume("ro", "-o", "type=none", "-o", "o=bind,ro", "-o", f"device={host_dir}")
    assert made.sh("touch /x/y || echo refused", "-v", f"{readonly}:/x") == "refused"
    lost = made.volume("lost", *bind, "-o", f"device={host_dir}/nosuch")
    told = made.refused("-v", f"{lost}:/x")
    assert "failed to mount local volume" in told and "no such file or directory" in told
    nfs = made.volume("nfs", "-o", "type=nfs", "-o", "device=:/x", "-o", "o=addr=localhost,soft")
    assert "failed to mount local volume: mount :/x" in made.refused("-v", f"{nfs}:/x")
    spec = "type=volume,dst=/x,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=2m"
    assert "size=2048k" in made.sh("grep ' /x ' /proc/mounts", "--mount", spec)


def test_subpaths(docker: Docker, made: Made) -> None:
    volume = made.volume("v")
    at = ("-v", f"{volume}:/x")
    made.sh("mkdir -p /x/a/b; echo deep > /x/a/b/f; ln -s /etc /x/abs; ln -s a/b /x/rel", *at)
    spec = f"type=volume,src={volume},dst=/y,volume-subpath="
    assert made.sh("cat /y/f", "--mount", f"{spec}a/b") == "deep"
    assert made.sh("cat /y/f", "--mount", f"{spec}rel") == "deep"
    assert made.sh("cat /y", "--mount", f"{spec}a/b/f") == "deep", "a file"
    assert made.sh("touch /y/n || echo refused", "--mount", f"{spec}a,readonly") == "refused"
    assert re.search(
        r"cannot access path (\S+/_data)/nosuch/x: lstat \1/nosuch: no such file or directory",
        made.refused("--mount", f"{spec}nosuch/x"),
    )
    assert "cannot access path" in made.refused("--mount", f"{spec}abs"), "links stay inside"
    assert "relative path within the volume" in made.refused("--mount", f"{spec}../../..")
    place = json.loads(docker("volume", "inspect", volume).stdout)[0]["Mountpoint"]
    left = [name for name in os.listdir(Path(place).parent) if name.startswith("sub-")]
    assert left == [] and f"{volume}/sub-" not in Path("/proc/self/mountinfo").read_text()


def test_bind_mounts(made: Made, host_dir: Path) -> None:
    missing = host_dir / "made" / "deep"
    assert made.sh("stat -c '%u %F' /x", "-v", f"{missing}:/x") == "0 directory"
    assert missing.is_dir(), "-v makes what is missing"
    (host_dir / "file").write_text("content")
    assert made.sh("cat /new/deep/f", "-v", f"{host_dir}/file:/new/deep/f:ro") == "content"
    refuse = "touch /x/y || echo refused"
    assert made.sh(refuse, "-v", f"{host_dir}:/x:ro,z") == "refused"
    assert made.sh("touch /x/y && echo wrote", "-v", f"{host_dir}:/x:Z") == "wrote"
    spec = f"type=bind,src={host_dir},dst=/x"
    assert made.sh(refuse, "--mount", f"{spec},readonly") == "refused"
    assert made.sh("ls /x", "--mount", f"{spec},consistency=cached").split()[0] == "file"


def test_read_only_is_recursive(made: Made, host_dir: Path) -> None:
    inner = host_dir / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        script = "touch /x/inner/f 2>/dev/null && echo wrote || echo refused"
        spec = f"type=bind,src={host_dir},dst=/x"
        assert made.sh(script, "-v", f"{host_dir}:/x:ro") == "refused"
        assert made.sh(script, "--mount", f"{spec},readonly,bind-recursive=writable") == "wrote"
        plain = f"{spec},bind-recursive=disabled"
        assert made.sh("ls /x/inner | wc -l", "--mount", plain) == "0"
    finally:
        subprocess.run(["umount", inner], check=True)


def test_propagation(docker: Docker, made: Made, host_dir: Path) -> None:
    inner = str(host_dir / "m")
    os.mkdir(inner)
    told = "is not a shared mount"
    where = Path("/proc/self/mountinfo").read_text()
    if not re.search(r"^\d+ \d+ \S+ / / .*shared:", where, re.M):
        assert told in made.refused("-v", f"{inner}:/x:rshared")
        assert "shared or slave" in made.refused("-v", f"{inner}:/x:rslave")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        subprocess.run(["mount", "--make-shared", inner], check=True)
        os.mkdir(f"{inner}/late")
        slave = made.container("slave", "-v", f"{inner}:/x:rslave")
        private = made.container("private", "-v", f"{inner}:/x")
        subprocess.run(["mount", "-t", "tmpfs", "late", f"{inner}/late"], check=True)
        try:
            Path(f"{inner}/late/f").touch()
            assert docker("exec", slave, "ls", "/x/late").stdout == "f\n"
            assert docker("exec", private, "ls", "/x/late").stdout == ""
        finally:
            subprocess.run(["umount", f"{inner}/late"], check=True)
        script = "mkdir /x/out && mount -t tmpfs out /x/out && touch /x/out/f"
        made.sh(script, "--privileged", "-v", f"{inner}:/x:rshared")
        assert os.listdir(f"{inner}/out") == ["f"], "the host sees the container's mount"
        subprocess.run(["umount", f"{inner}/out"], check=True)
        made.sh("mkdir /x/no && mount -t tmpfs no /x/no", "--privileged", "-v", f"{inner}:/x")
        assert not os.path.ismount(f"{inner}/no")
        docker("rm", "-f", slave, private)
    finally:
        subprocess.run(["umount", "-R", inner], check=True)


def test_tmpfs(made: Made) -> None:
    line = "grep ' /x ' /proc/mounts"
    assert "nosuid,nodev,noexec" in made.sh(line, "--tmpfs", "/x")
    seen = made.sh(line, "--tmpfs", "/x:size=64k,mode=0711,exec,uid=1000")
    assert "size=64k" in seen and "mode=711" in seen and "noexec" not in seen
    spec = "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=0700"
    seen = made.sh(line, "--mount", spec)
    assert "size=1024k" in seen and "mode=700" in seen
    assert 'invalid tmpfs option "bogus"' in made.refused("--tmpfs", "/x:bogus")


def test_image_mounts(made: Made) -> None:
    spec = f"type=image,src={made.image},dst=/x"
    script = "cat /x/srv/data/file; touch /x/f || echo refused"
    assert made.sh(script, "--mount", spec).splitlines() == ["from the image", "refused"]


def test_hostile_links_in_the_image(made: Made, host_dir: Path) -> None:
    (host_dir / "f").write_text("inside")
    outside = Path("/tmp/ps-evil-target")
    assert not outside.exists()
    assert made.sh("cat /evil/deep/f", "-v", f"{host_dir}:/evil/deep", image=made.image) == "inside"
    one_file = f"{host_dir}/f:/evil"
    assert made.sh("cat /tmp/ps-evil-target", "-v", one_file, image=made.image) == "inside"
    made.sh("cat /evilroot/opt/f", "-v", f"{host_dir}:/evilroot/opt", image=made.image)
    assert not outside.exists(), "made in the container's root, not in the host's"


def test_a_mount_over_etc_keeps_the_networks_files(made: Made, host_dir: Path) -> None:
    (host_dir / "mine").touch()
    seen = made.sh("ls /etc; grep -c localhost /etc/hosts", "-v", f"{host_dir}:/etc")
    assert "mine" in seen.split() and int(seen.split()[-1]) >= 1
    (host_dir / "hosts").write_text("192.0.2.1 own\n")
    own = made.sh("cat /etc/hosts", "-v", f"{host_dir}/hosts:/etc/hosts")
    assert own == "192.0.2.1 own"


def test_prune(docker: Docker, made: Made) -> None:
    label = f"only={made.prefix}"
    named = made.volume("named", "--label", label)
    box = f"{made.prefix}-box"
    docker(
        "run", "--name", box, "--mount", f"type=volume,dst=/x,volume-label={label}", BASE, "true"
    )
    (mount,) = json.loads(docker("inspect", "-f", "{{json .Mounts}}", box).stdout)
    docker("rm", box)
    filters = ("--filter", f"label={label}")
    assert mount["Name"] in docker("volume", "prune", "-f", *filters).stdout
    assert docker("volume", "inspect", named).returncode == 0, "named ones only with --all"
    assert named in docker("volume", "prune", "-f", "-a", *filters).stdout
    assert (
        "invalid filter" in docker("volume", "prune", "-f", "--filter", "x=y", check=False).stderr
    )


def test_mounts_do_not_outlive_the_engine(private_engine: Any, docker_command: list[str]) -> None:
    """kill -9 while a volume with a file system and a subpath are in use."""
    from enginekit import docker_runner

    docker = docker_runner(docker_command, {"DOCKER_HOST": private_engine.host, "HOME": "/root"})
    docker("pull", "-q", BASE)
    docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "ram")
    docker("run", "--rm", "-v", "plain:/x", BASE, "mkdir", "/x/sub")
    sub = "type=volume,src=plain,dst=/s,volume-subpath=sub"
    for name in ("one", "two"):
        docker("run", "-d", "--name", name, "-v", "ram:/x", "--mount", sub, BASE, "sleep", "1000")
    docker("exec", "one", "touch", "/x/kept", "/s/kept")
    private_engine.kill()
    docker_inspect = Path("/proc/self/mountinfo")
    assert "/volumes/ram/_data" in docker_inspect.read_text()
    private_engine.start()
    assert docker("exec", "two", "ls", "/x", "/s").stdout.count("kept") == 2
    docker("rm", "-f", "one")
    assert docker("exec", "two", "ls", "/x").stdout == "kept\n"
    docker("rm", "-f", "two")
    mounts = docker_inspect.read_text()
    assert f"{private_engine.data_root}/volumes" not in mounts
    docker("volume", "rm", "ram", "plain")


def test_prune_spares_volumes_with_options(docker: Docker, made: Made) -> None:
    """Their files are somewhere else, and nothing here would be freed."""
    label = f"test={made.prefix}"
    plain = made.volume("plain", "--label", label)
    device = ("-o", "type=tmpfs", "-o", "device=tmpfs")
    other = made.volume("other", "--label", label, *device)
    told = docker("volume", "prune", "-af", "--filter", f"label={label}").stdout
    assert plain in told and other not in told
    assert docker("volume", "inspect", other).returncode == 0


def test_options_of_another_kind_of_mount_are_refused(docker: Docker, made: Made) -> None:
    words = "must not be specified"
    assert f"field VolumeOptions {words}" in made.refused("-v", "/tmp:/x:nocopy")
    assert f"field BindOptions {words}" in made.refused("-v", f"{made.prefix}:/x:rslave")
    for mode in ("z,Z", "nocopy,nocopy", "cached,delegated", "ro,rw", "shared,slave"):
        assert f"invalid mode: {mode}" in made.refused("-v", f"{made.prefix}:/x:{mode}")
    assert "must not set ReadOnly mode when using anonymous volumes" in made.refused(
        "--mount", "type=volume,dst=/x,readonly"
    )
    assert "subpath must be a relative path within the volume" in made.refused(
        "--mount", f"type=volume,src={made.prefix},dst=/x,volume-subpath=../up"
    )
    assert "invalid specification: destination can't be '/'" in made.refused("--tmpfs", "/")
    assert made.sh("ls -d /rel", "-v", "rel") == "/rel", "an anonymous volume beneath the root"


def test_a_directory_on_a_file_is_explained(made: Made, host_dir: Path) -> None:
    (host_dir / "file").write_text("x")
    for source, target in (("", "/etc/passwd"), ("/file", "/etc")):
        told = made.refused("-v", f"{host_dir}{source}:{target}")
        assert "not a directory" in told and "onto a file (or vice-versa)?" in told


def test_inherited_mounts_report_no_mode(docker: Docker, made: Made, host_dir: Path) -> None:
    first = made.container("first", "-v", f"{host_dir}:/d:ro")
    second = made.container("second", "--volumes-from", f"{first}:")
    mount = json.loads(docker("inspect", second).stdout)[0]["Mounts"][0]
    assert (mount["Mode"], mount["RW"]) == ("", False)


def test_a_path_of_an_image_is_mounted(docker: Docker, made: Made) -> None:
    def mount(path: str) -> tuple[str, str]:
        return "--mount", f"type=image,src={made.image},dst=/i,image-subpath={path}"

    assert made.sh("ls /i; stat -c %u /i", *mount("srv/data")).split() == [
        "file", "link", "sub", "1000",
    ]  # fmt: skip
    assert made.sh("cat /i", *mount("srv/data/link")) == "from the image"
    assert "Read-only" in made.sh("touch /i/x 2>&1 || true", *mount("srv/data"))
    # links of the image lead nowhere else
    assert made.sh("ls /i", *mount("evilroot/srv/data")).split() == ["file", "link", "sub"]
    assert "no such file" in made.refused(*mount("nosuch"))
    assert "subpath must be a relative path" in made.refused(*mount("../etc"))
    # two of them, and again after a restart
    box = made.container("box", *mount("srv/data"), "--mount",
                         f"type=image,src={made.image},dst=/j,image-subpath=srv")  # fmt: skip
    docker("restart", "-t", "0", box)
    assert docker("exec", box, "ls", "/j/data/file", "/i/file").returncode == 0


def test_a_bind_volume_takes_what_the_image_has(docker: Docker, made: Made, host_dir: Path) -> None:
    bind = ("-o", "type=none", "-o", "o=bind", "-o", f"device={host_dir}")
    volume = made.volume("bind", *bind)
    assert made.sh("cat /srv/data/file", "-v", f"{volume}:/srv/data", image=made.image) == (
        "from the image"
    )
    assert (host_dir / "file").read_text() == "from the image\n"
    assert (host_dir.stat().st_uid, oct(host_dir.stat().st_mode & 0o7777)) == (1000, "0o750")
    (host_dir / "file").unlink()
    made.sh("true", "-v", f"{volume}:/srv/data", image=made.image)
    assert not (host_dir / "file").exists(), "it was not empty any more"
    empty = host_dir / "empty"
    empty.mkdir()
    other = made.volume("other", *bind[:-1], f"device={empty}")
    made.sh("true", "-v", f"{other}:/srv/data:nocopy", image=made.image)
    assert not list(empty.iterdir())


def test_cluster_volumes_need_a_swarm(docker: Docker, made: Made) -> None:
    done = docker("volume", "create", "--type", "block", f"{made.prefix}-x", check=False)
    assert "This node is not a swarm manager" in done.stderr


def test_file_systems_are_named_as_the_specification_names_them(made: Made) -> None:
    """Tools compare the source in /proc/mounts with the runtime-spec's."""
    mounts = [line.split()[:3] for line in made.sh("cat /proc/mounts").splitlines()]
    kinds = {kind: source for source, _, kind in mounts if kind in ("proc", "sysfs", "cgroup2")}
    assert kinds["proc"] == "proc" and kinds["sysfs"] == "sysfs"
    assert "none" not in {source for source, _, _ in mounts}
