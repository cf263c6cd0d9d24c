"""``POST /build``: the docker CLI's classic builder and docker-py, images that run afterwards."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import docker as docker_py
import pytest
from enginekit import RunningEngine

Run = Callable[..., subprocess.CompletedProcess[Any]]
BASE = "portside/base"


@pytest.fixture
def build(
    docker: Run, docker_env: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Build a Dockerfile with files beside it: ``build(text, "-t", …, files={…}, check=True)``."""

    def run(
        text: str, *args: str, files: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "Dockerfile").write_text(text)
        done = subprocess.run(
            ["docker", "build", *args, str(tmp_path)],
            env={**docker_env, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode:
            pytest.fail(f"{done.stdout}\n{done.stderr}")
        return done

    return run


Build = Callable[..., subprocess.CompletedProcess[str]]


def inspect(docker: Run, name: str) -> Any:
    return json.loads(docker("image", "inspect", name).stdout)[0]


def test_a_line_that_names_a_frontend_is_a_comment(build: Build) -> None:
    """The classic builder reads every file itself, as Docker's does."""
    done = build(f"# syntax=localhost:1/none:1\nFROM {BASE}\nRUN echo said\n")
    assert "Step 1/2 : FROM" in done.stdout and "said" in done.stdout


def test_several_sources_need_a_slash_here_alone(
    build: Build, docker: Run, docker_env: dict[str, str], tmp_path: Path
) -> None:
    """BuildKit takes a directory that exists without it."""
    text = f"FROM {BASE}\nWORKDIR /app\nCOPY a b /app\n"
    done = build(text, files={"a": "1", "b": "2"}, check=False)
    assert done.returncode and "must be a directory and end with a /" in done.stderr + done.stdout
    command = [sys.executable, "-m", "portside", "build", "-t", "no-slash", str(tmp_path)]
    subprocess.run(command, env=docker_env, check=True, capture_output=True)
    assert docker("run", "--rm", "no-slash", "cat", "/app/a", "/app/b").stdout == "12"


def test_the_beginning_of_an_id_is_a_name(build: Build, docker: Run) -> None:
    """Twelve digits or more are an ID, as commands print it."""
    identifier = docker("image", "inspect", "-f", "{{.ID}}", BASE).stdout.strip()[7:]
    assert build(f"FROM {identifier[:12]}\nENV A=1\n").returncode == 0
    done = build(f"FROM {identifier[:1]}\n", check=False)
    assert done.returncode and "Successfully built" not in done.stdout


def test_an_image_with_everything_in_its_configuration(build: Build, docker: Run) -> None:
    done = build(
        f"""ARG BASE={BASE}
FROM $BASE
ARG FOO=bar
ENV A=1 B="x y"
LABEL l=v
MAINTAINER me
WORKDIR /work
WORKDIR sub
RUN echo $FOO-$A > f
RUN true
COPY --chown=1000:1001 a.txt sub/ /dest/
EXPOSE 80 53/udp
VOLUME /v
SHELL ["/bin/sh", "-ec"]
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGUSR1
USER 1000
ENTRYPOINT ["/bin/cat"]
CMD ["/work/sub/f"]
""",
        "-t", "everything", "-t", "everything:2", "--build-arg", "FOO=baz", "--label", "x=y",
        files={"a.txt": "a\n", "sub/b.txt": "b\n"},
    )  # fmt: skip
    assert "Successfully tagged everything:latest\nSuccessfully tagged everything:2\n" in (
        done.stdout
    )
    assert docker("run", "--rm", "everything").stdout == "baz-1\n"
    found = inspect(docker, "everything")
    config = found["Config"]
    assert config["Env"][-2:] == ["A=1", "B=x y"]
    assert config["Labels"] == {"l": "v", "x": "y"}
    assert config["WorkingDir"] == "/work/sub" and config["User"] == "1000"
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9}
    assert config["StopSignal"] == "SIGUSR1" and config["Volumes"] == {"/v": {}}
    assert found["Author"] == "me"
    base = len(inspect(docker, BASE)["RootFS"]["Layers"])
    # WORKDIR twice, one RUN that writes, one COPY; RUN true adds nothing
    assert len(found["RootFS"]["Layers"]) == base + 4
    lines = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "everything").stdout
    told = lines.splitlines()
    assert "|1 FOO=baz /bin/sh -c echo $FOO-$A > f" in told
    assert '/bin/sh -ec #(nop)  CMD ["/work/sub/f"]' in told
    assert "/bin/sh -ec #(nop)  HEALTHCHECK &{[CMD-SHELL true] 5s 0s 0s 0s 0}" in told
    assert any(line.startswith("/bin/sh -c #(nop) COPY --chown=1000:1001 multi:") for line in told)
    shown = docker("run", "--rm", "--entrypoint", "ls", "everything", "-ln", "/dest").stdout
    assert [line.split()[2:4] for line in shown.splitlines()[1:]] == [["1000", "1001"]] * 2


def test_the_same_build_again_comes_from_the_cache(build: Build, docker: Run) -> None:
    text = f"FROM {BASE}\nRUN date +%s%N > /t\nCOPY a /a\nRUN cat /t /a > /both\n"
    build(text, "-q", "-t", "once", files={"a": "1", "unrelated": "1"})
    first = inspect(docker, "once")["Id"]
    done = build(text, "-t", "twice", files={"unrelated": "2"})
    assert done.stdout.count("Using cache") == 3  # what COPY takes has not changed
    build(text, "-t", "twice", files={".dockerignore": "unrelated\n"})
    assert inspect(docker, "twice")["Id"] == first
    done = build(text, "-t", "changed", files={"a": "2"})
    assert done.stdout.count("Using cache") == 1
    assert docker("run", "--rm", "changed", "tail", "-c1", "/both").stdout == "2"
    build(text, "--no-cache", "-t", "fresh")
    assert inspect(docker, "fresh")["Id"] != first


def test_cache_from_an_image(build: Build, docker: Run) -> None:
    text = f"FROM {BASE} AS up\nENV E=1\nRUN date +%s%N > /t\nFROM up\nCOPY f /f\nLABEL l=1\n"
    text += "RUN cat /t /f > /both; date +%N >> /both\n"
    build(text, "-t", "source", files={"f": "1"})
    first = inspect(docker, "source")["Id"]

    def again(*args: str, text: str = text, files: dict[str, str] | None = None) -> int:
        docker("builder", "prune", "-af")
        done = build(text, "-t", "again", *args, files=files)
        return done.stdout.count("Using cache")

    assert again() == 0
    assert inspect(docker, "again")["Id"] != first
    assert again("--cache-from", "no/such:1", "--cache-from", "source") == 5
    assert inspect(docker, "again")["Id"] == first
    # from now on it is in the engine's own cache, too
    assert build(text, "-t", "again").stdout.count("Using cache") == 5
    assert again("--cache-from", "source", "--no-cache") == 0
    assert again("--cache-from", "source", files={"f": "2"}) == 2
    assert docker("run", "--rm", "again", "cat", "/f").stdout == "2"
    changed = text.replace("E=1", "E=2")
    assert again("--cache-from", "source", text=changed, files={"f": "1"}) == 0
    # what a mount brings is in no history
    text = f"FROM {BASE}\nRUN --mount=target=/c cat /c/f > /m\n"
    build(text, "-t", "mounted", files={"f": "1"})
    assert again("--cache-from", "mounted", text=text, files={"f": "2"}) == 0
    assert docker("run", "--rm", "again", "cat", "/m").stdout == "2"


def test_an_equal_result_of_a_changed_step_changes_nothing_after_it(build: Build) -> None:
    rest = "RUN echo later > /l; date +%N >> /l\n"
    build(f"FROM {BASE}\nRUN echo same > /s\n{rest}")
    done = build(f"FROM {BASE}\nRUN printf 'same\\n' > /s\n{rest}")
    assert done.stdout.count("Using cache") == 1


def test_stages(build: Build, docker: Run) -> None:
    done = build(
        f"""FROM {BASE} AS one
RUN mkdir /src && echo built > /src/out && chown 7:8 /src/out && ln -s out /src/link
FROM {BASE} AS unused
RUN exit 1
FROM scratch
COPY --from=one /bin/busybox /bin/sh
COPY --from=one /bin/busybox /bin/
COPY --from=0 /src /src
COPY --from=one /src/link /single/
""",
        "-t", "stages",
    )  # fmt: skip
    assert "unused" not in done.stdout
    script = "busybox stat -c %u:%g /src/out; busybox cat /single/link; busybox readlink /src/link"
    found = docker("run", "--rm", "--entrypoint", "/bin/sh", "stages", "-c", script)
    assert found.stdout == "7:8\nbuilt\nout\n"


def test_mounts_of_steps(build: Build, docker: Run) -> None:
    text = f"""FROM {BASE} AS b
RUN mkdir /q && echo one > /q/w
FROM {BASE}
RUN --mount=type=bind,from=b,source=/q,target=/m cat /m/w > /r; ! touch /m/z 2>/dev/null
RUN --mount=type=bind,from=b,source=/q,target=/m,rw touch /m/z
RUN --mount=target=/ctx cat /ctx/f >> /r
RUN --mount=type=tmpfs,target=/tt,size=1m grep -c ' /tt tmpfs' /proc/mounts >> /r
RUN --mount=type=cache,target=/c echo x >> /c/n; wc -l < /c/n > /count
RUN --mount=type=secret,id=nope ls /run/secrets 2>/dev/null || true
"""
    build(text, "-t", "mounts", files={"f": "ctx\n"})
    assert docker("run", "--rm", "mounts", "cat", "/r").stdout == "one\nctx\n1\n"
    found = docker("run", "--rm", "mounts", "ls", "/").stdout.split()
    assert not {"m", "ctx", "tt", "c"} & set(found)
    build(text, "-t", "mounts", "--no-cache")
    assert docker("run", "--rm", "mounts", "cat", "/count").stdout == "2\n"


def test_here_documents(build: Build, docker: Run) -> None:
    build(
        f"FROM {BASE}\nENV V=1\nRUN <<EOF\necho one > /r\necho two >> /r\nEOF\n"
        "COPY <<X <<'Y' /h/\n$V\nX\n$V\nY\nRUN <<S\n#!/bin/cat\ntext\nS\n",
        "-t", "heredocs",
    )  # fmt: skip
    shown = docker("run", "--rm", "heredocs", "cat", "/r", "/h/X", "/h/Y").stdout
    assert shown == "one\ntwo\n1\n$V\n"


def test_a_step_is_as_confined_as_a_container(build: Build, docker: Run) -> None:
    probe = (
        "grep -E '^(Cap|Seccomp|NoNew)' /proc/self/status; cat /proc/1/cgroup | wc -l; "
        "ls /proc/kcore -l | cut -c1; cat /proc/sys/kernel/hostname >/dev/null; "
        "mount -t tmpfs x /mnt 2>&1; echo >/proc/sys/kernel/domainname 2>&1; ls /dev; ulimit -n"
    )
    done = build(f"FROM {BASE}\nRUN {probe}; true\n", "--no-cache")
    inside = docker("run", "--rm", BASE, "sh", "-c", probe, check=False).stdout
    for line in inside.splitlines():
        assert line in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY nope /x", "COPY failed: file not found in build context or excluded by"),
        ("COPY n* /x", "COPY failed: no source files were specified"),
        ("COPY ../x /x", "COPY failed: forbidden path outside the build context: ../x ()"),
        ("RUN exit 3", "The command '/bin/sh -c exit 3' returned a non-zero code: 3"),
        ("RUNN x", "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean"),
        ("COPY --from=nine /x /y", "nine"),
        ("RUN --mount=type=secret,id=s,required x", "secret s: not found"),
        ("RUN --network=host true", "network.host is not allowed"),
        ("RUN --security=insecure true", "security.insecure is not allowed"),
        ("COPY --chown=nobodyhere a /x", "no such user: nobodyhere"),
        ("ENV A=${B:?why}", "B: why"),
    ],
)
def test_what_fails_says_why(build: Build, text: str, message: str) -> None:
    done = build(f"FROM {BASE}\n{text}\n", check=False, files={"a": ""})
    assert done.returncode
    assert message in done.stdout + done.stderr


def test_docker_py(engine: RunningEngine, docker: Run) -> None:
    client = docker_py.DockerClient(base_url=engine.host)
    try:
        image, logs = client.images.build(
            fileobj=io.BytesIO(f"FROM {BASE}\nRUN echo hello\nCMD echo hi\n".encode()),
            tag="from-py", rm=True, buildargs={"UNUSED": "1"},
        )  # fmt: skip
        told = "".join(item.get("stream", "") for item in logs)
        assert "hello\n" in told and "[UNUSED] were not consumed" in told
        assert client.containers.run(image.id, remove=True) == b"hi\n"
        with pytest.raises(docker_py.errors.BuildError) as caught:
            client.images.build(fileobj=io.BytesIO(f"FROM {BASE}\nRUN exit 7\n".encode()))
        assert "returned a non-zero code: 7" in str(caught.value)
    finally:
        client.close()


def _context(text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize("moments", [(0.5,), [number / 1000 for number in range(2, 50, 2)]])
def test_a_client_that_leaves_ends_its_build(
    engine: RunningEngine, moments: Sequence[float]
) -> None:
    """Long after its step has begun, and at any moment of the step's start."""
    body = _context(f"FROM {BASE}\nRUN echo begun; sleep 4321\n")
    head = f"POST /build?nocache=1 HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
    for moment in moments:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(engine.socket))
        client.sendall(head.encode() + body)
        heard = b""
        while b"begun" not in heard:  # in the name of the step
            heard += client.recv(65536)
        time.sleep(moment)
        client.close()
        deadline = time.monotonic() + 30
        while (left := _left(engine)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left


def _left(engine: RunningEngine) -> list[str]:
    """What is there of the step."""
    states = list((engine.exec_root / "containers").glob("*"))
    return [str(path) for path in states] + (["its process"] if _sleeping() else [])


def _sleeping() -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"sleep\x004321" in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_the_cache_is_counted_and_pruned(
    private_engine: RunningEngine, docker_command: list[str]
) -> None:
    env = {**os.environ, "DOCKER_HOST": private_engine.host, "DOCKER_BUILDKIT": "0"}

    def docker(*args: str, input: bytes | None = None) -> str:
        done = subprocess.run([*docker_command, *args], env=env, input=input, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    docker("pull", "-q", BASE)
    assert private_engine.json("POST", "/build/prune") == {
        "CachesDeleted": None, "SpaceReclaimed": 0,
    }  # fmt: skip
    text = f"FROM {BASE}\nRUN head -c 100000 /dev/urandom > /r\n".encode()
    docker("build", "-q", "-", input=text)
    found = private_engine.json("GET", "/v1.51/system/df")["BuildCache"]
    (record,) = [item for item in found if item["Size"]]
    assert record["Size"] >= 200_000 and not record["InUse"] and record["Shared"]
    private_engine.kill()
    private_engine.start()
    assert "Using cache" in docker("build", "-", input=text)
    docker("image", "prune", "-f")
    answer = private_engine.json("POST", "/build/prune?all=1")
    assert record["ID"] in answer["CachesDeleted"]
    assert answer["SpaceReclaimed"] >= record["Size"]
    assert private_engine.json("GET", "/v1.51/system/df")["BuildCache"] == []
    assert "Using cache" not in docker("build", "-", input=text)


def test_a_killed_engine_leaves_nothing_of_a_step(
    private_engine: RunningEngine, docker_command: list[str]
) -> None:
    env = {**os.environ, "DOCKER_HOST": private_engine.host, "DOCKER_BUILDKIT": "0"}
    subprocess.run([*docker_command, "pull", "-q", BASE], env=env, check=True, capture_output=True)
    text = (
        f"FROM {BASE} AS b\nRUN echo kept > /kept\nFROM b\n"
        "RUN --mount=from=b,source=/bin,target=/m echo begun; sleep 54321\n"
    )
    running = subprocess.Popen(
        [*docker_command, "build", "-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert running.stdin is not None and running.stdout is not None
    with running:
        running.stdin.write(text.encode())
        running.stdin.close()
        while b"begun" not in running.stdout.readline():
            assert running.poll() is None
        private_engine.kill()
    private_engine.start()
    assert not list((private_engine.exec_root / "containers").iterdir())
    assert not list((private_engine.data_root / "containers").iterdir())
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(private_engine.root) not in mounts
    again = text.replace("sleep 54321", "true").encode()
    done = subprocess.run(
        [*docker_command, "build", "-"], env=env, input=again, capture_output=True, check=True
    )
    assert done.stdout.count(b"Using cache") == 1


def test_links_swapped_while_a_context_is_copied_lead_nowhere(build: Build, docker: Run) -> None:
    """CVE-2024-23651's kind: a mount's source is exchanged for a link while it is resolved."""
    files = {"d/f": "inside\n"}
    done = build(
        f"""FROM {BASE} AS evil
RUN mkdir /a && ln -s /../../../../../../etc /a/up && ln -s /proc/self/root /a/magic
FROM {BASE}
COPY --from=evil /a/up/passwd /x
RUN --mount=from=evil,source=/a/up,target=/m cat /m/passwd > /y
""",
        "-t", "swapped", files=files,
    )  # fmt: skip
    assert done.returncode == 0
    host = Path("/etc/passwd").read_text()
    for name in ("/x", "/y"):
        found = docker("run", "--rm", "swapped", "cat", name).stdout
        assert found and found != host


def test_squash_makes_one_layer_above_the_base(
    build: Build, docker: Run, engine: RunningEngine
) -> None:
    text = f"FROM {BASE}\nRUN echo 1 > /a && echo 2 > /b\nRUN rm /a && chmod 600 /b\nENV X=1\n"
    build(text, "-t", "whole")
    # the CLI refuses the flag unless the engine calls itself experimental
    client = docker_py.APIClient(base_url=engine.host)
    file = io.BytesIO(text.encode())
    for _ in client.build(fileobj=file, tag="squashed", squash=True, decode=True):
        pass
    client.close()
    base, whole, squashed = (
        inspect(docker, name)["RootFS"]["Layers"] for name in (BASE, "whole", "squashed")
    )
    assert len(whole) == len(base) + 2
    assert squashed[:-1] == base
    shown = docker("run", "--rm", "squashed", "sh", "-c", "ls -l /a /b 2>&1; echo $X").stdout
    assert "-rw-------" in shown and "/a: No such file" in shown and shown.endswith("1\n")
    history = docker("history", "--format", "{{.Comment}}", "squashed").stdout
    assert "merge sha256:" in history


def test_networks_of_steps(build: Build, docker: Run) -> None:
    docker("network", "create", "--subnet", "10.243.7.0/24", "forbuild")
    docker("run", "-d", "--name", "neighbour", "--network", "forbuild", BASE, "sleep", "1000")
    try:
        text = f"FROM {BASE}\nRUN nslookup neighbour && ip addr | grep 10.243.7\n"
        build(text, "--network", "forbuild", "--no-cache")
        address = inspect_container(docker, "neighbour")
        text = f"FROM {BASE}\nRUN ip addr | grep {address}/\n"
        build(text, "--network", "container:neighbour", "--no-cache")
        done = build(text, "--network", "nosuch", "--no-cache", check=False)
        assert done.returncode and "nosuch" in done.stderr + done.stdout
    finally:
        docker("rm", "-f", "neighbour")
        docker("network", "rm", "forbuild")


def inspect_container(docker: Run, name: str) -> str:
    """Its address."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return str(docker("inspect", "-f", form, name).stdout.strip())
