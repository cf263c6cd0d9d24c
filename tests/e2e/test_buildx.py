"""BuildKit's clients on our engine: ``docker build``, buildx, bake, compose, unmodified."""

import json
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from buildxkit import BASE, Builder, build
from enginekit import RunningEngine

__all__ = ["build"]

Run = Callable[..., subprocess.CompletedProcess[Any]]


def test_an_empty_dockerfile_is_said_to_be_empty(build: Builder) -> None:
    done = build("", check=False)
    assert done.returncode == 1
    assert "the Dockerfile cannot be empty" in done.stderr


def test_an_image_is_built_and_runs(build: Builder, docker: Run) -> None:
    done = build(
        f"""FROM {BASE} AS one
ARG WORD=nothing
RUN echo $WORD > /word
FROM one
COPY a.txt sub /dest/
ENV A=1
LABEL l=v
CMD ["/bin/cat", "/word", "/dest/a.txt", "/dest/b.txt"]
""",
        "-t", "bx-one", "-t", "bx-two:v", "--build-arg", "WORD=said", "--label", "x=y",
        files={"a.txt": "a\n", "sub/b.txt": "b\n", "unused/big": "x"},
    )  # fmt: skip
    assert "naming to docker.io/library/bx-two:v" in done.stderr
    assert docker("run", "--rm", "bx-one").stdout.split() == ["said", "a", "b"]
    found = json.loads(docker("image", "inspect", "bx-two:v").stdout)[0]
    assert found["Config"]["Labels"] == {"l": "v", "x": "y"}
    assert "A=1" in found["Config"]["Env"]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "bx-one")
    assert "COPY a.txt sub /dest/ # buildkit|buildkit.dockerfile.v0" in history.stdout


def test_iidfile_and_metadata_name_the_image(build: Builder, tmp_path: Path, docker: Run) -> None:
    iid, metadata = tmp_path / "iid", tmp_path / "metadata"
    build(
        f"FROM {BASE}\nRUN echo m > /m\n", "-t", "bx-meta", "--iidfile", str(iid),
        "--metadata-file", str(metadata),
    )  # fmt: skip
    found = json.loads(metadata.read_text())
    identifier = docker("image", "inspect", "-f", "{{.Id}}", "bx-meta").stdout.strip()
    assert found["containerimage.digest"] == identifier
    assert found["image.name"] == "docker.io/library/bx-meta:latest"
    assert found["containerimage.descriptor"]["digest"] == identifier
    assert iid.read_text() == identifier
    assert found["buildx.build.provenance"]["invocation"]["parameters"]["frontend"] == (
        "dockerfile.v0"
    )
    plain = build(
        f"FROM {BASE}\nRUN echo m > /m\n", "-t", "bx-meta", "--provenance=false",
        "--metadata-file", str(metadata),
    )  # fmt: skip
    found = json.loads(metadata.read_text())
    assert found["containerimage.config.digest"].startswith("sha256:"), plain.stderr


def test_the_second_build_comes_from_the_cache_and_receives_what_changed(build: Builder) -> None:
    text = f"FROM {BASE}\nRUN date +%s%N > /now\nCOPY src /src\nRUN cat /src/*\n"
    files = {f"src/{number}": f"{number}\n" * 1000 for number in range(50)}
    build(text, files=files)
    again = build(text, files=files)
    assert again.stderr.count("CACHED") == 4
    changed = build(text, files={"src/7": "seven\n"})
    assert changed.stderr.count("CACHED") == 2
    assert "seven" in changed.stderr and "\n49\n" not in again.stderr


def test_a_failing_step_shows_its_output_and_its_line(build: Builder) -> None:
    done = build(f"FROM {BASE}\nRUN true\nRUN echo oops >&2; exit 3\n", check=False)
    assert done.returncode == 1
    assert "Dockerfile:3\n" in done.stderr
    assert "   3 | >>> RUN echo oops >&2; exit 3\n" in done.stderr
    assert done.stderr.rstrip().endswith(
        'ERROR: failed to build: failed to solve: process "/bin/sh -c echo oops >&2; exit 3" did '
        "not complete successfully: exit code: 3"
    )


@pytest.mark.parametrize("flags", [(), ("--network=host",)])
def test_a_step_knows_the_host_as_containers_do(build: Builder, flags: tuple[str, ...]) -> None:
    text = f"FROM {BASE}\nRUN grep -w me /etc/hosts\n"
    told = build(
        text, "--no-cache", "--progress=plain", "--add-host=me:host-gateway", *flags
    ).stderr
    assert re.search(r"\d+\.\d+\.\d+\.\d+\s+me\n", told), told


def test_a_step_that_prints_without_end_is_clipped(build: Builder) -> None:
    text = f"FROM {BASE}\nRUN yes 0123456789 | head -c 20000000; echo end > /made\nRUN cat /made\n"
    told = build(text, "--no-cache", "--progress=plain").stderr
    assert "[output clipped, log limit 200KiB/s reached]" in told
    assert len(told) < 8 << 20
    assert "end" in told


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (f"FROM {BASE}\nCOPPY a b\n", 2, "unknown instruction: COPPY (did you mean COPY?)"),
        (f"FROM {BASE}\nCOPY missing /x\n", 2, '"/missing": not found'),
        (f"FROM {BASE}\nCOPY --from=localhost:1/nope /a /b\n", 2, "localhost:1/nope"),
        (f"FROM {BASE} AS a\nRUN --mount=type=secret,id=s,required cat /run/secrets/s\n", 2,
         "secret s: not found"),
        ("FROM localhost:1/none\n", 1, "localhost:1/none"),
    ],
)  # fmt: skip
def test_bad_dockerfiles(build: Builder, text: str, line: int, words: str) -> None:
    done = build(text, check=False)
    assert done.returncode == 1
    assert words in done.stderr.rpartition("ERROR: failed to build:")[2]
    assert f"Dockerfile:{line}\n" in done.stderr


def test_target_no_cache_and_a_file_elsewhere(build: Builder, tmp_path: Path) -> None:
    text = f"FROM {BASE} AS first\nRUN echo first\nFROM first AS second\nRUN echo second\n"
    done = build(text, "--target", "first")
    assert "RUN echo first" in done.stderr and "RUN echo second" not in done.stderr
    assert "CACHED" not in build(text, "--target", "first", "--no-cache").stderr
    other = tmp_path / "Other"
    other.write_text(f"FROM {BASE}\nRUN echo from elsewhere\n")
    assert "from elsewhere" in build(text, "-f", str(other)).stderr


def test_ignored_files_are_not_sent(build: Builder) -> None:
    files = {"keep.txt": "k", "drop.log": "d", "deep/in.log": "d", ".dockerignore": "**/*.log\n"}
    done = build(f"FROM {BASE}\nCOPY . /c\nRUN cd /c && find . -type f\n", files=files)
    assert "./keep.txt" in done.stderr
    assert "./drop.log" not in done.stderr and "in.log" not in done.stderr


def test_a_secret_reaches_its_step_alone(build: Builder, docker: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush-4711")
    build.env = {**build.env, "FROM_ENV": "from-env"}
    done = build(
        f"""FROM {BASE}
RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size
RUN --mount=type=secret,id=e,env=WORD test "$WORD" = from-env
RUN ! test -e /run/secrets/s
""",
        "-t", "bx-secret", "--secret", f"id=s,src={secret}", "--secret", "id=e,env=FROM_ENV",
    )  # fmt: skip
    assert "hush-4711" not in done.stderr
    assert docker("run", "--rm", "bx-secret", "cat", "/size").stdout.strip() == "9"
    assert "hush-4711" not in docker("history", "--no-trunc", "bx-secret").stdout


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """An agent that answers each request with its own bytes."""
    path = f"{tmp_path}/a"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"agent says " + peer.recv(100))

    threading.Thread(target=serve, daemon=True).start()
    yield path
    listener.close()


def test_an_agent_is_forwarded(build: Builder, agent: str) -> None:
    text = f"FROM {BASE}\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo sock $SSH_AUTH_SOCK\n"
    done = build(text, "--ssh", f"default={agent}")
    assert "sock /run/buildkit/ssh_agent.0" in done.stderr
    text = f"FROM {BASE}\nRUN --mount=type=ssh,required true\n"
    assert "no SSH key" in build(text, check=False).stderr


def test_results_as_files_at_the_client(build: Builder, tmp_path: Path) -> None:
    text = f"FROM {BASE} AS b\nRUN mkdir -p /o/d && echo hi > /o/d/f && ln -s d/f /o/l\n" + (
        "FROM scratch\nCOPY --from=b /o /\n"
    )
    out, tar = tmp_path / "out", tmp_path / "out.tar"
    build(text, "-o", str(out))
    assert (out / "d/f").read_text() == "hi\n" and os.readlink(out / "l") == "d/f"
    build(text, "-o", f"type=tar,dest={tar}")
    with tarfile.open(tar) as archive:
        assert {"d", "d/f", "l"} <= {name.strip("/") for name in archive.getnames()}
    image = tmp_path / "image.tar"
    build(text, "-o", f"type=docker,dest={image},name=bx-tar")
    with tarfile.open(image) as archive:
        assert "manifest.json" in archive.getnames()


def test_a_context_from_standard_input(build: Builder, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nRUN echo piped\n"
    done = build.docker("build", "--progress=plain", "-", input=text)
    assert done.returncode == 0 and "piped" in done.stderr, done.stderr
    build.files(f"FROM {BASE}\nCOPY a /a\nRUN cat /a\n", {"a": "in the tar\n"})
    tar = tmp_path / "c.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(build.path, ".")
    with tar.open("rb") as file:
        done = subprocess.run(["docker", "build", "--progress=plain", "-"], env=build.env,
                              stdin=file, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0 and "in the tar" in done.stderr, done.stderr


def test_named_contexts(build: Builder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_text("from another folder\n")
    done = build(
        f"FROM {BASE}\nCOPY --from=more f /f\nRUN cat /f\nFROM base2\nCOPY --from=0 /f /g\n",
        "--build-context", f"more={other}", "--build-context", f"base2=docker-image://{BASE}",
    )  # fmt: skip
    assert "naming to moby-dangling@sha256:" in done.stderr, "as dockerd names what has no name"


def test_checks_without_a_build(build: Builder) -> None:
    done = build(f"FROM {BASE} as x\nMAINTAINER me\n", "--check", check=False)
    assert done.returncode == 1
    assert "FromAsCasing" in done.stdout and "MaintainerDeprecated" in done.stdout


def test_bake_builds_targets_that_use_each_other(build: Builder, docker: Run) -> None:
    build.files(f"FROM {BASE}\nRUN echo base > /b\n")
    (build.path / "Second").write_text("FROM first\nRUN cat /b && echo second > /s\n")
    (build.path / "docker-bake.json").write_text(
        json.dumps(
            {
                "group": {"default": {"targets": ["second"]}},
                "target": {
                    "first": {"dockerfile": "Dockerfile", "tags": ["bx-first"]},
                    "second": {
                        "dockerfile": "Second",
                        "contexts": {"first": "target:first"},
                        "tags": ["bx-second"],
                    },
                },
            }
        )
    )
    done = build.docker("buildx", "bake", "--progress=plain", cwd=build.path)
    assert done.returncode == 0, done.stderr
    assert docker("run", "--rm", "bx-second", "cat", "/b", "/s").stdout.split() == [
        "base", "second"
    ]  # fmt: skip


def test_compose_builds_a_service(build: Builder, docker: Run) -> None:
    build.files(f"FROM {BASE}\nRUN echo composed > /c\n")
    (build.path / "compose.yaml").write_text(
        "services:\n  web:\n    image: bx-composed\n    build: .\n"
    )
    done = build.docker("compose", "--progress", "plain", "build", cwd=build.path)
    assert done.returncode == 0, done.stderr
    assert docker("run", "--rm", "bx-composed", "cat", "/c").stdout == "composed\n"


def test_the_cache_is_listed_and_pruned(build: Builder) -> None:
    build(f"FROM {BASE}\nRUN echo to be pruned > /p\n")
    listed = build.docker("buildx", "du", "--verbose")
    assert "RUN echo to be pruned" in listed.stdout
    assert build.docker("buildx", "du", "--filter", "type=exec.cachemount").returncode == 0
    assert build.docker("buildx", "prune", "-af").returncode == 0
    assert "RUN echo to be pruned" not in build.docker("buildx", "du", "--verbose").stdout


def test_the_builder_describes_itself(build: Builder) -> None:
    done = build.docker("buildx", "inspect")
    assert "docker" in done.stdout and "running" in done.stdout
    assert "org.mobyproject.buildkit.worker.snapshotter" in done.stdout
    assert "default" in build.docker("buildx", "ls").stdout
    build(f"FROM {BASE}\nRUN echo remembered\n")
    listed = build.docker("buildx", "history", "ls")
    assert "Completed" in listed.stdout


def test_a_client_that_leaves_stops_its_build(
    build: Builder, engine: RunningEngine, docker: Run
) -> None:
    build.files(f"FROM {BASE}\nRUN echo begun; sleep 4711\n")
    client = subprocess.Popen(
        ["docker", "build", "--progress=plain", str(build.path)],
        env=build.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert client.stdout is not None
    for line in client.stdout:
        if " begun" in line and "RUN" not in line:
            break
    assert _sleeping()
    client.send_signal(signal.SIGINT)
    client.wait(30)
    client.stdout.close()
    deadline = time.monotonic() + 20
    while _sleeping() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleeping()


def _sleeping() -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"4711"]:
                return True
        except OSError:
            continue
    return False


def test_several_platforms_make_an_index(build: Builder, tmp_path: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY f /${TARGETARCH}\n"
    out, files = tmp_path / "oci.tar", {"f": "f"}
    done = build(
        text, "--platform", "linux/amd64,linux/arm64", "-o", f"type=oci,dest={out}", files=files,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with tarfile.open(out) as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"].replace(":", "/")
        inner = json.load(archive.extractfile(f"blobs/{digest}"))  # type: ignore[arg-type]
    found = {item["platform"]["architecture"] for item in inner["manifests"]}
    assert {"amd64", "arm64"} <= found
    folder = tmp_path / "folders"
    build(text, "--platform", "linux/amd64,linux/arm64", "-o", str(folder), files=files)
    assert (folder / "linux_arm64/arm64").read_text() == "f"


def test_a_step_for_a_machine_without_emulator_says_what_to_install(
    build: Builder,
) -> None:
    shell = build.path / "sh"
    head = bytearray(Path("/proc/self/exe").read_bytes()[:64])
    head[18:20] = (0x16 if head[18] != 0x16 else 0x3E).to_bytes(2, "little")  # s390x, or amd64
    head[54:58] = bytes(4)  # no program headers, no loader
    shell.write_bytes(head)
    shell.chmod(0o755)
    text = "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN make\n"
    done = build(text, "--platform", "linux/s390x", check=False)
    assert done.returncode == 1
    assert "exec format error: it is made for" in done.stderr and "binfmt_misc" in done.stderr
    assert "qemu-user-static" in done.stderr and "3 | >>> RUN make" in done.stderr


OUTLINE = """ARG GLOBAL=1
ARG UNUSED=2
ARG NAME=tch
# BASE is the base
ARG BASE=scra${NAME}
# one is the first
FROM ${BASE} AS one
# A is the name
# of something
ARG A=x B=${A}y
ARG C
# GLOBAL of the stage
ARG GLOBAL
ARG TARGETARCH
RUN --mount=type=secret,id=s --mount=type=secret,id=t,required=true --mount=type=ssh x
# last is the last
FROM one AS last
COPY --from=one /a /b
FROM scratch AS other
ARG OTHER=1
"""


def test_a_dockerfile_reports_its_parameters(build: Builder) -> None:
    def call(kind: str, *args: str) -> str:
        return build(OUTLINE, f"--call={kind}", "--target=last", *args).stdout.strip("\n")

    assert call("outline").split("\n\n") == [
        "TARGET:      last\nDESCRIPTION: is the last",
        "BUILD ARG   VALUE     DESCRIPTION\nGLOBAL      1         \nNAME        tch       \n"
        "BASE        scratch   is the base\nA           x         is the name\n"
        "B           xy        \nC                     ",
        "SECRET   REQUIRED\ns        \nt        true",
        "SSH       REQUIRED\ndefault   ",
    ]
    found = json.loads(call("outline,format=json", "--build-arg=C=5"))
    assert found["args"][-1] == {
        "name": "C", "value": "5",
        "location": {"ranges": [{"start": {"line": 11}, "end": {"line": 11}}]},
    }  # fmt: skip
    assert call("targets").splitlines() == [
        "TARGET          DESCRIPTION", "one             is the first",
        "last            is the last", "other (default) ",
    ]  # fmt: skip
    named = [line.split()[0] for line in call("subrequests.describe").splitlines()]
    assert named == ["NAME", "outline", "targets", "subrequests.describe"]
    done = build(OUTLINE, "--call=nothing", check=False)
    assert "unsupported request frontend.nothing" in done.stderr and done.returncode == 1


async def test_services_answer_on_plain_http2(build: Builder, engine: RunningEngine) -> None:
    from grpclib.client import Channel, UnaryUnaryMethod

    from portside.builder.wire.proto import control_pb2 as pb

    async with Channel(path=str(engine.socket)) as channel:
        info = UnaryUnaryMethod(
            channel, "/moby.buildkit.v1.Control/Info", pb.InfoRequest, pb.InfoResponse
        )
        answer = await info(pb.InfoRequest(), timeout=30)
        assert answer.buildkitVersion.version.startswith("v0.")
        solve = UnaryUnaryMethod(
            channel, "/moby.buildkit.v1.Control/Solve", pb.SolveRequest, pb.SolveResponse
        )
        request = pb.SolveRequest(Ref="hostile")
        getattr(request.Definition, "def").append(b"\xff" * 100)
        with pytest.raises(Exception, match="malformed"):
            await solve(request, timeout=30)
