"""Frontends that are images: what they are told, what they may ask, and what hostile ones get."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from buildxkit import BASE, Builder, build
from enginekit import RunningEngine
from frontendkit import make_frontend

__all__ = ["build"]

Run = Callable[..., subprocess.CompletedProcess[Any]]


@pytest.fixture(scope="module")
def frontend(docker: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_frontend(docker, tmp_path_factory.mktemp("frontend"))


@pytest.fixture(autouse=True)
def nothing_left(engine: RunningEngine) -> Iterator[None]:
    """No process, mount or runtime directory of a frontend stays."""
    before = _remains(engine)
    yield
    deadline = time.monotonic() + 20
    while (left := _remains(engine) - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _remains(engine: RunningEngine) -> set[str]:
    root = str(engine.root)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = {path for path in mounts if path.startswith(root)}
    found |= {str(path) for path in (engine.exec_root / "containers").glob("*")}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"/frontend.py" in words or b"4444" in words:
            found.add(f"process {entry.parent.name}: {words!r}")
    return found


def told(text: str) -> dict[str, Any]:
    """What the frontend has said of itself on its standard error."""
    found = re.search(r"TOLD (\{.*\})", text)
    assert found, text
    value: dict[str, Any] = json.loads(found[1])
    return value


def test_an_image_reads_a_language_of_its_own(build: Builder, docker: Run, frontend: str) -> None:
    text = f"// syntax={frontend} and more\nWRITE hello\nWRITE from a frontend\n"
    done = build(text, "-t", "fe-made")
    found = told(done.stderr)
    assert found["made"] == "hello from a frontend"
    assert found["entries"] == ["made"] and found["link"] == "made"
    assert found["source"] == frontend and found["cmdline"] == f"{frontend} and more"
    assert found["product"] == "docker" and found["exec"]
    assert found["workers"] == [["buildkitVersion", "gcPolicy", "id", "labels", "platforms"]]
    assert "a warning of the frontend's" in done.stderr
    assert docker("run", "--rm", "fe-made", "cat", "/made").stdout == "hello from a frontend\n"
    labels = docker("image", "inspect", "-f", "{{json .Config.Labels}}", "fe-made").stdout
    assert json.loads(labels) == {"made-by": "frontend"}


def test_the_build_argument_names_one_for_any_file(build: Builder, frontend: str) -> None:
    done = build("WRITE words\n", "--build-arg", f"BUILDKIT_SYNTAX={frontend}")
    assert told(done.stderr)["made"] == "words"
    wrong = build(
        "WRITE words\n", "--build-arg", "BUILDKIT_SYNTAX=localhost:1/none:1", check=False
    )  # fmt: skip
    assert wrong.returncode and "localhost:1/none:1" in wrong.stderr


def test_a_missing_frontend_is_named_with_its_line(build: Builder) -> None:
    done = build(f"# syntax=localhost:1/none:1\nFROM {BASE}\n", check=False)
    assert done.returncode == 1
    assert "Dockerfile:1" in done.stderr and ">>> # syntax=localhost:1/none:1" in done.stderr


def test_it_may_leave_the_rest_to_the_built_in_frontend(
    build: Builder, docker: Run, frontend: str
) -> None:
    text = f"# syntax={frontend}\nFROM {BASE}\nCOPY a /a\nENV X=1\n"
    build(text, "-t", "fe-sent", "--build-arg", "ACT=delegate", files={"a": "sent\n"})
    assert docker("run", "--rm", "fe-sent", "cat", "/a").stdout == "sent\n"
    history = docker("history", "--format", "{{.CreatedBy}}", "fe-sent").stdout
    assert "ENV X=1" in history and "COPY a /a # buildkit" in history


def test_a_label_takes_the_network_away_and_capabilities_are_asked_for(
    build: Builder, docker: Run, frontend: str
) -> None:
    done = build("WRITE x\n", "--build-arg", f"BUILDKIT_SYNTAX={frontend}")
    assert "eth0" in told(done.stderr)["links"]
    label = 'LABEL moby.buildkit.frontend.network.none="true"\n'
    build(f"FROM {frontend}\n{label}", "-t", "portside-test/offline:1")
    done = build("WRITE x\n", "--build-arg", "BUILDKIT_SYNTAX=portside-test/offline:1")
    assert told(done.stderr)["links"] == ["lo"]
    refused = build(
        "WRITE x\n", "--call", "outline", "--build-arg", f"BUILDKIT_SYNTAX={frontend}", check=False
    )  # fmt: skip
    assert refused.returncode and "moby.buildkit.frontend.subrequests" in refused.stderr


def test_it_learns_what_sources_are(build: Builder, frontend: str, tmp_path: Path) -> None:
    """``ResolveSourceMeta`` of a file and a repository, both served by HTTP."""
    place = tmp_path / "www"
    place.mkdir()
    (place / "file.txt").write_text("web")
    environment = {**os.environ, "HOME": str(tmp_path)}
    for words in (
        ["init", "-q", "-b", "main"], ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
        ["update-server-info"],
    ):  # fmt: skip
        subprocess.run(["git", *words], cwd=place, env=environment, check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=place, env=environment, capture_output=True, text=True
    ).stdout.strip()
    handler = partial(SimpleHTTPRequestHandler, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        done = build(
            f"# syntax={frontend}\n", "--build-arg", "ACT=sources", "--build-arg",
            f"SOURCES={where}/file.txt git://127.0.0.1:{server.server_port}/.git#main",
            "--build-arg", f"URL={where}/.git", check=False,
        )  # fmt: skip
        server.shutdown()
    file, repository = told(done.stderr)["sources"]
    digest = hashlib.sha256(b"web").hexdigest()
    assert file[5:7] == [f"sha256:{digest}", "file.txt"] and file[7] > 0
    assert file[8] == f"{where}/file.txt"
    assert repository[:2] == ["refs/heads/main", commit]
    assert repository[3].startswith("tree ") and "first" in repository[3]


Portside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def portside(build: Builder) -> Portside:
    """``portside(text, *flags, files={…}, input=b"…", place=…, check=True)``."""

    def run(
        text: str, *flags: str, files: dict[str, str] | None = None, place: str = "",
        check: bool = True, input: bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        build.files(text, files)
        words = [sys.executable, "-m", "portside", "build", *flags, place or str(build.path)]
        done = subprocess.run(
            words, env=build.env, capture_output=True, timeout=180, cwd=build.path, input=input
        )
        found = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        if check and found.returncode:
            pytest.fail(f"{found.stdout}\n{found.stderr}")
        return found

    return run


def test_portside_build_runs_them(portside: Portside, docker: Run, frontend: str) -> None:
    done = portside(f"// syntax={frontend} and more\nWRITE hello\n", "-t", "fe-ours")
    found = told(done.stderr)
    assert found["made"] == "hello" and found["cmdline"] == f"{frontend} and more"
    assert "a warning of the frontend's" in done.stderr
    assert docker("run", "--rm", "fe-ours", "cat", "/made").stdout == "hello\n"
    by_argument = ["--build-arg", f"BUILDKIT_SYNTAX={frontend}"]
    assert told(portside("WRITE words\n", *by_argument).stderr)["made"] == "words"
    elsewhere = portside("", "-f", "-", *by_argument, input=b"WRITE from a pipe\n")
    assert told(elsewhere.stderr)["made"] == "from a pipe"


def test_portside_build_hands_them_a_stream_and_outputs(
    portside: Portside, docker: Run, frontend: str, tmp_path: Path
) -> None:
    text = f"# syntax={frontend}\nFROM {BASE}\nARG X\nCOPY a /$X\nENV Y=1\n".encode()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in (("Dockerfile", text), ("a", b"sent\n")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    out = tmp_path / "out"
    flags = ("--build-arg", "ACT=delegate", "--build-arg", "X=there", "--provenance=mode=max")
    portside("", *flags, "-t", "fe-piped", "-o", "type=docker", "-o", f"type=local,dest={out}",
             place="-", input=data.getvalue())  # fmt: skip
    assert (out / "there").read_text() == "sent\n"
    history = docker("history", "--format", "{{.CreatedBy}}", "fe-piped").stdout
    assert "ENV Y=1" in history and "COPY a /there # buildkit" in history


def test_portside_build_gives_them_the_parts_they_ask_for(
    portside: Portside, build: Builder, docker: Run, frontend: str
) -> None:
    files = {"src/a": "a", "src/b": "b", "top.txt": "t", "deep/er/target": "x", "new.md": "n"}
    build.files("", files)
    (build.path / "deep/link").symlink_to("er/target")
    (build.path / "link").symlink_to("deep/link")
    done = portside(f"# syntax={frontend}\n", "--build-arg", "ACT=directories", "-t", "fe-parts")
    found = told(done.stderr)
    everything = [
        "Dockerfile", "deep", "deep/er", "deep/er/target", "deep/link", "link", "new.md", "src",
        "src/a", "src/b", "top.txt",
    ]  # fmt: skip
    assert found == {
        "all": everything,
        "include": ["src", "src/a", "src/b", "top.txt"],
        "exclude": [name for name in everything if name != "src/a"],
        "both": ["src", "src/a"],
        "follow": ["deep", "deep/er", "deep/er/target", "deep/link", "link"],
    }
    again = build(f"# syntax={frontend}\n", "--build-arg", "ACT=directories")
    assert told(again.stderr) == found  # what buildx sends
    shown = docker("run", "--rm", "fe-parts", "ls", "/in", "/in/src").stdout.split()
    assert {"a", "b", "top.txt", "Dockerfile"} <= {*shown}


def test_portside_build_shows_their_errors(
    portside: Portside, build: Builder, frontend: str
) -> None:
    done = portside("# syntax=localhost:1/none:1\nFROM x\n", check=False)
    assert done.returncode == 1
    assert "Dockerfile:1" in done.stderr and ">>> # syntax=localhost:1/none:1" in done.stderr
    for act, words in (
        ("exit", "ended with exit code 3 before it returned a result: nothing to say"),
        ("insecure", "security.insecure is not allowed"),
        ("refs", "no such result of this build"),
    ):
        done = portside(f"# syntax={frontend}\n", "--build-arg", f"ACT={act}", check=False)
        assert done.returncode == 1 and words in done.stderr
    wrong = f"# syntax={frontend}\nFROM {BASE}\nRUN exit 3\n"
    done = portside(wrong, "--build-arg", "ACT=delegate", check=False)
    assert (
        done.returncode == 1 and "exit code: 3" in done.stderr and ">>> RUN exit 3" in done.stderr
    )
    asked = portside(f"# syntax={frontend}\n", "--call", "outline", check=False)
    assert asked.returncode and "moby.buildkit.frontend.subrequests" in asked.stderr


def test_portside_build_takes_a_frontend_that_never_ends_along(
    portside: Portside, build: Builder, frontend: str
) -> None:
    build.files(f"# syntax={frontend}\n")
    words = [sys.executable, "-m", "portside", "build", "--build-arg", "ACT=hang", str(build.path)]
    client = subprocess.Popen(
        words, env=build.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _dies_with(client)


def test_its_containers_run_beside_the_build(build: Builder, frontend: str) -> None:
    done = build(f"# syntax={frontend}\n", "--build-arg", "ACT=containers")
    found = told(done.stderr)
    assert found["first 1"].split() == ["below", "beside", "/tmp"] and found["first 2"] == "b"
    assert "got words" in found["second 1"]
    assert found["codes"] == {"first": 0, "second": 7, "third": 137, "none": 255}


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("exit", "ended with exit code 3 before it returned a result: nothing to say"),
        ("garbage", "closed its connection before it returned a result"),
        ("close", "closed its connection before it returned a result: closing"),
        ("left", "ended with exit code 5 before it returned a result"),
        ("cycle", "has no operation sha256:1111"),
        ("million", "more than 100000 vertices"),
        ("digest", "has no operation sha256:2222"),
        ("huge", "a message of"),
        ("warnings", "at most 1000 warnings"),
        ("recursive", "call each other without end"),
        ("refs", "no such result of this build"),
        ("insecure", "security.insecure is not allowed"),
    ],
)
def test_a_hostile_one_gets_an_error(
    build: Builder, docker: Run, frontend: str, act: str, words: str
) -> None:
    done = build(f"# syntax={frontend}\n", "--build-arg", f"ACT={act}", check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "portside" in docker("run", "--rm", BASE, "echo", "portside").stdout  # it still serves


def test_files_of_results_are_read_beneath_their_root(build: Builder, frontend: str) -> None:
    done = build(f"# syntax={frontend}\n", "--build-arg", "ACT=escape", check=False)
    read = re.findall(r"READ (\S+) (b.*)", done.stderr)
    assert len({path for path, _ in read}) == 3, done.stderr
    host = Path("/etc/hostname").read_text().strip()
    assert not [data for _, data in read if host in data or "root:" in data]


def test_one_that_never_ends_goes_with_its_client(build: Builder, frontend: str) -> None:
    build.files(f"# syntax={frontend}\n")
    client = subprocess.Popen(
        ["docker", "build", "--build-arg", "ACT=hang", str(build.path)],
        env=build.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _dies_with(client)


def _dies_with(client: subprocess.Popen[Any]) -> None:
    """A frontend begins, and ends when its client is killed."""
    deadline = time.monotonic() + 60
    while not _frontends() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _frontends()
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    deadline = time.monotonic() + 20
    while _frontends() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _frontends()


def _frontends() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "/frontend.py"], capture_output=True, text=True)
    return found.stdout.split()


def test_the_debugger_of_buildx_enters_the_result(build: Builder) -> None:
    """``buildx debug --invoke``: a client's own container, before a terminal."""
    build.files(f"FROM {BASE}\nRUN echo inside > /in\n")
    pid, terminal = pty.fork()
    if pid == 0:
        env = {**build.env, "BUILDX_EXPERIMENTAL": "1"}
        words = ["docker", "buildx", "debug", "--on=always", "--invoke=/bin/sh", "build"]
        os.execvpe("docker", [*words, "--progress=plain", str(build.path)], env)
    try:
        _until(terminal, b"/ # ")
        os.write(terminal, b"cat /in; echo total $((6*7))\n")
        assert b"inside" in _until(terminal, b"total 42")
        os.write(terminal, b"exit\n")
        _until(terminal, b"(buildx) ")
        os.write(terminal, b"exit\n")
        assert b"exporting to image" in _until(terminal, b"exporting to image")
        with contextlib.suppress(OSError):  # EIO: it has ended
            while os.read(terminal, 4096):
                pass
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_debugger_of_buildx_enters_the_step_that_failed(build: Builder) -> None:
    """With what the step wrote, its mounts, its environment and its directory."""
    build.files(
        f"FROM {BASE}\nRUN echo base > /base\nENV WORD=said\nWORKDIR /here\n"
        "RUN --mount=type=bind,target=/context --mount=type=cache,target=/c,sharing=locked "
        "--mount=type=secret,id=key --mount=type=tmpfs,target=/t "
        "--mount=type=bind,rw,from=portside/base,target=/rw "
        "--mount=type=bind,rw,source=deep,target=/own "
        "echo made > file; echo stored > /c/kept; echo added > /rw/more; "
        "echo written > /own/new; exit 7\n",
        {"deep/old": "older"},
    )
    (build.path / "key").write_text("hush")
    pid, terminal = pty.fork()
    if pid == 0:
        env = {**build.env, "BUILDX_EXPERIMENTAL": "1"}
        words = ["docker", "buildx", "debug", "--on=error", "--invoke=/bin/sh", "build"]
        more = ["--secret", f"id=key,src={build.path}/key", "--progress=plain", str(build.path)]
        os.execvpe("docker", [*words, *more], env)
    try:
        _until(terminal, b"# ")
        for command, told_ in (
            ("cat /here/file /base | tr -d '\\n'", "madebase"),
            ("echo word=$WORD | grep word=said && cat /c/kept", "stored"),
            ("cat /run/secrets/key; ls /context; df /t | tail -n 1", "hush"),
            ("ls /context; cat /rw/more", "added"),
            ("cat /own/old /own/new | tr -d '\\n'", "olderwritten"),
        ):
            os.write(terminal, f"{command}; echo over $((6*7))\n".encode())
            assert told_.encode() in _until(terminal, b"over 42"), command
        os.write(terminal, b"exit\n")
        _until(terminal, b"(buildx) ")
        os.write(terminal, b"exit\n")
        assert b"exit code: 7" in _until(terminal, b"exit code: 7")
        with contextlib.suppress(OSError):  # EIO: it has ended
            while os.read(terminal, 4096):
                pass
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _until(terminal: int, wanted: bytes) -> bytes:
    """What a terminal shows, until it shows ``wanted``."""
    found = b""
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    deadline = time.monotonic() + 60
    while wanted not in found and time.monotonic() < deadline:
        if poll.poll(1000):
            found += os.read(terminal, 4096)
    assert wanted in found, found
    return found
