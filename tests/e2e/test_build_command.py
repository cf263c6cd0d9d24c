"""``portside build``: flags, contexts, secrets, outputs, progress, errors; images that run."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

Build = Callable[..., "subprocess.CompletedProcess[str]"]
BASE = "portside/base"


@pytest.fixture(scope="module")
def tcp(engine: RunningEngine) -> Iterator[str]:
    """The engine behind a TCP port: contexts travel as streams."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ = [listener]

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            near = socket.socket(socket.AF_UNIX)
            near.connect(str(engine.socket))
            open_.extend((client, near))
            for pair in ((client, near), (near, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    for sock in open_:
        sock.close()


@pytest.fixture
def build(docker: Any, docker_env: dict[str, str], tmp_path: Path) -> Build:
    """``build(dockerfile, *flags, files={…}, verb="build", host=…, env={…}, check=True)``."""

    def run(
        text: str | None, *flags: str, files: dict[str, str] | None = None, verb: str = "build",
        place: str | None = None, host: str = "", env: dict[str, str] | None = None,
        check: bool = True, input: bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        if text is not None:
            (tmp_path / "Dockerfile").write_text(text)
        environment = {**docker_env, **(env or {})}
        if host:
            environment["DOCKER_HOST"] = host
        done = subprocess.run(
            [sys.executable, "-m", "portside", *verb.split(), *flags, place or str(tmp_path)],
            env=environment, capture_output=True, input=input, timeout=180, cwd=tmp_path,
        )  # fmt: skip
        found = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )  # fmt: skip
        if check and found.returncode:
            pytest.fail(f"{found.stdout}\n{found.stderr}")
        return found

    return run


def test_an_image_by_every_name_of_the_verb(build: Build, docker: Any) -> None:
    text = f'FROM {BASE}\nRUN echo made > /f\nCOPY a.txt /a\nCMD ["cat", "/f", "/a"]\n'
    for verb in ("build", "image build", "builder build", "buildx build", "buildx b"):
        build(text, "-t", "by-verb", "-t", "by-verb:2", files={"a.txt": "a\n"}, verb=verb)
    assert docker("run", "--rm", "by-verb:2").stdout == "made\na\n"


def test_plain_progress_is_buildkits(build: Build) -> None:
    text = f"FROM {BASE}\nRUN echo one; echo two >&2\nCOPY a.txt /progress\n"
    done = build(text, "--progress=plain", "--no-cache", "-t", "p:1", files={"a.txt": "a"})
    lines = done.stderr.splitlines()
    assert lines[0].startswith('#0 building with "default" instance')
    assert "#1 [internal] load build definition from Dockerfile" in lines
    assert f"#2 [internal] load metadata for docker.io/{BASE}:latest" in lines
    step = next(line for line in lines if line.endswith("[2/3] RUN echo one; echo two >&2"))
    number = step.split()[0]
    said = [line.split()[-1] for line in lines if line.startswith(f"{number} 0.")]
    assert sorted(said) == ["one", "two"]
    assert any(line.startswith(f"{number} DONE ") for line in lines)
    assert any("naming to docker.io/library/p:1 done" in line for line in lines)
    assert done.stdout == ""
    again = build(text, "--progress=plain", "-t", "p:1")
    assert sum(line.endswith(" CACHED") for line in again.stderr.splitlines()) == 3


def test_quiet_iidfile_metadata_and_timings(build: Build, docker: Any, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nRUN true\n"
    done = build(text, "-q", "-t", "files", "--iidfile", "iid", "--metadata-file", "meta")
    assert done.stderr == ""
    identifier = done.stdout.strip()
    assert identifier == docker("image", "inspect", "-f", "{{.Id}}", "files").stdout.strip()
    assert (tmp_path / "iid").read_text() == identifier
    meta = json.loads((tmp_path / "meta").read_text())
    assert meta["containerimage.digest"] == identifier
    assert meta["image.name"] == "docker.io/library/files:latest"
    assert meta["containerimage.descriptor"]["digest"] == identifier
    done = build(text, "--timings")
    assert "  STEP\n" in done.stderr and "CACHED [2/2] RUN true" in done.stderr


def test_raw_json_is_a_solve_status_a_line(build: Build) -> None:
    done = build(f"FROM {BASE}\nRUN echo $((40+2))\n", "--progress=rawjson", "--no-cache")
    messages = [json.loads(line) for line in done.stderr.splitlines()]
    assert any(v["name"].startswith("[2/2] RUN") for m in messages for v in m.get("vertexes", ()))
    import base64

    logs = b"".join(base64.b64decode(e["data"]) for m in messages for e in m.get("logs", ()))
    assert logs == b"42\n"


def test_a_failing_step(build: Build) -> None:
    text = f"FROM {BASE}\nRUN true\nRUN echo last words; exit 7\nRUN true\n"
    done = build(text, check=False)
    assert done.returncode == 1
    tail = done.stderr[done.stderr.index("------\n") :]
    assert tail.splitlines()[1] == " > [3/4] RUN echo last words; exit 7:"
    assert tail.splitlines()[2].endswith(" last words")
    assert "   3 | >>> RUN echo last words; exit 7\n" in tail
    assert tail.splitlines()[-1] == (
        'ERROR: failed to build: failed to solve: process "/bin/sh -c echo last words; exit 7" did '
        "not complete successfully: exit code: 7"
    )


def test_a_failing_copy_shows_its_line(build: Build) -> None:
    done = build(f"FROM {BASE}\nRUN true\nCOPY nothere /\n", check=False)
    assert done.returncode == 1
    assert "Dockerfile:3\n" in done.stderr and "   3 | >>> COPY nothere /\n" in done.stderr
    assert done.stderr.endswith('failed to solve: "/nothere": not found\n')


def test_steps_and_copies_are_not_synced(build: Build) -> None:
    """Removing and copying again mounts the layer twice; a step's root says how it is mounted."""
    done = build(
        f"FROM {BASE}\nRUN grep ' / overlay .*volatile' /proc/mounts && sync && echo a > /a\n"
        "RUN rm /a\nCOPY file /a\nADD file /b/\nRUN test -s /a && test -s /b/file\n",
        "--no-cache", files={"file": "text"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_history_has_the_bases_id_on_the_bases_line(build: Build, docker: Any) -> None:
    build(f"FROM {BASE}\nENV A=1\nRUN echo hi >/x\n", "-t", "lines")
    base = docker("history", "-q", "--no-trunc", BASE).stdout.split()
    ids = docker("history", "-q", "--no-trunc", "lines").stdout.split()
    assert ids[1:] == ["<missing>", *base] and ids[0].startswith("sha256:")


def test_ignored_files_are_not_there(build: Build, docker: Any, tcp: str) -> None:
    files = {
        "a.md": "", "README.md": "", "secret/key": "", "keep/x": "", "keep/y.tmp": "",
        "deep/er/no": "", "deep/er/yes": "", "tema": "", "temp/z": "",
        ".dockerignore": "# a comment\n*.md\n!README.md\n/secret\n**/*.tmp\ntem?\ndeep/er/*\n"
                         "!deep/er/yes\nDockerfile\n.dockerignore\n",
    }  # fmt: skip
    text = (
        f"FROM {BASE}\nCOPY . /c\nRUN cd /c && find . | sort\nCMD cd /c && find . -type f | sort\n"
    )
    for host in ("", tcp):
        build(text, "-t", "ignored", "--no-cache", files=files, host=host)
        assert docker("run", "--rm", "ignored").stdout.split() == [
            "./README.md", "./deep/er/yes", "./keep/x",
        ]  # fmt: skip
        done = build(f"FROM {BASE}\nCOPY a.md /\n", check=False, host=host)
        assert done.returncode == 1 and '"/a.md": not found' in done.stderr
    mounted = f"FROM {BASE}\nRUN --mount=type=bind,target=/m find /m -type f | sort > /found\n"
    build(mounted, "-t", "mounted", "--no-cache")
    assert docker("run", "--rm", "mounted", "cat", "/found").stdout.split() == [
        "/m/README.md", "/m/deep/er/yes", "/m/keep/x",
    ]  # fmt: skip


def test_a_remote_engine_gets_what_the_steps_read(build: Build, docker: Any, tcp: str) -> None:
    files = {"src/a": "1", "src/b": "2", "other": "x" * 5_000_000, "one.py": "p"}
    text = f'FROM {BASE}\nCOPY src /src\nCOPY o*.py /\nCMD ["cat", "/src/a", "/src/b", "/one.py"]\n'
    done = build(text, "-t", "remote", "--no-cache", files=files, host=tcp)
    assert docker("run", "--rm", "remote").stdout == "12p"
    sent = next(line for line in done.stderr.splitlines() if "transferring context:" in line)
    assert "MB" not in sent, sent


def test_contexts(build: Build, docker: Any, tmp_path: Path) -> None:
    done = build(None, "-t", "stdin", place="-", input=f"FROM {BASE}\nRUN echo a > /f\n".encode())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, data in {"Dockerfile": f"FROM {BASE}\nCOPY in/f /f\n", "in/f": "tar\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data.encode()))
    build(None, "-t", "tar", place="-", input=archive.getvalue())
    assert docker("run", "--rm", "tar", "cat", "/f").stdout == "tar\n"
    (tmp_path / "x.tar.gz").write_bytes(archive.getvalue())
    build(None, "-t", "tarfile", place=str(tmp_path / "x.tar.gz"))
    assert docker("run", "--rm", "tarfile", "cat", "/f").stdout == "tar\n"
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "n").write_text("named\n")
    build(None, "-t", "byname", "-f", "-", "--build-context", "Two=named",
          "--build-context", f"bb=docker-image://{BASE}",
          input=b"FROM bb\nCOPY --from=two n /n\nCMD cat /n\n")  # fmt: skip
    assert docker("run", "--rm", "byname").stdout == "named\n"
    assert done.returncode == 0


def test_a_git_context(build: Build, docker: Any, tmp_path: Path) -> None:
    repository = tmp_path / "r.git"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e"]
    (repository / "sub").mkdir()
    (repository / "sub" / "Dockerfile").write_text(f"FROM {BASE}\nCOPY f /f\n")
    (repository / "sub" / "f").write_text("from git\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *words], check=True)
    from portside.cli.build import git_context
    from portside.cli.session import Failed
    from portside.model.git_urls import GitUrl

    url = GitUrl(remote=f"file://{repository}", ref="main", subdir="sub")
    root, place = git_context.clone(url)
    try:
        assert sorted(os.listdir(root)) == ["sub"]
        build(None, "-t", "git", place=place)
    finally:
        git_context.remove(root)
    assert docker("run", "--rm", "git", "cat", "/f").stdout == "from git\n"
    with pytest.raises(Failed, match="expected checksum to match abcdef0, got "):
        git_context.clone(replace(url, commit="abcdef0"))


def test_secrets_stay_secret(
    build: Build, docker: Any, engine: RunningEngine, tmp_path: Path
) -> None:
    marker = f"portside-secret-{os.getpid()}"
    (tmp_path / "s").write_text(f"{marker}-file")
    text = (
        f"FROM {BASE}\nRUN --mount=type=secret,id=one,required=true wc -c < /run/secrets/one > /n\n"
        'RUN --mount=type=secret,id=two,env=TWO test -n "$TWO"\nCMD cat /n\n'
    )
    done = build(
        text, "-t", "secret", "--no-cache", "--secret", "id=one,src=s", "--secret",
        "id=two,env=MINE", env={"MINE": f"{marker}-env"}, files={".dockerignore": "s\n"},
    )  # fmt: skip
    assert docker("run", "--rm", "secret").stdout.strip() == str(len(f"{marker}-file"))
    assert marker not in done.stderr
    assert marker not in docker("image", "inspect", "secret").stdout
    assert marker not in docker("history", "--no-trunc", "secret").stdout
    found = subprocess.run(
        ["grep", "-rl", "--", marker, str(engine.root)], capture_output=True, text=True
    )
    assert found.stdout == ""
    missing = build(text, "--no-cache", check=False)
    assert missing.returncode == 1 and "secret one: not found" in missing.stderr


def test_outputs(build: Build, tmp_path: Path) -> None:
    text = f"FROM {BASE} AS b\nRUN echo data > /out\nFROM scratch\nCOPY --from=b /out /dir/out\n"
    build(text, "-o", "here")
    assert (tmp_path / "here/dir/out").read_text() == "data\n"
    build(text, "-o", "type=tar,dest=here.tar", "-o", "type=local,dest=there")
    with tarfile.open(tmp_path / "here.tar") as tar:
        assert [m.name.strip("./") for m in tar if m.isfile()] == ["dir/out"]
    assert (tmp_path / "there/dir/out").read_text() == "data\n"


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        ("--progress=foo .", 1, "ERROR: invalid progress mode foo"),
        ("--network=foo .", 1, 'ERROR: failed to build: network mode "foo" not supported by'),
        ("--allow=foo .", 1, "ERROR: failed to build: unknown entitlement foo"),
        ("--secret id=a,src=/nope .", 1, "ERROR: failed to build: failed to stat /nope: stat "
         "/nope: no such file or directory"),
        ("--secret foo=bar .", 1, "ERROR: unexpected key 'foo' in 'foo=bar'"),
        ("--build-context a .", 1, "ERROR: invalid context value: a, expected key=value"),
        ("--output a,b .", 1, "ERROR: invalid value a"),
        ("--output a=b,c=d .", 1, "ERROR: type is required for output a=b,c=d"),
        ("-o type=local,dest=- .", 1, "ERROR: failed to build: dest cannot be stdout for local"),
        ("--iidfile i -o out .", 1,
         "ERROR: local and tar exporters are incompatible with image ID file"),
        ("--build-context a=target:x .", 1,
         "ERROR: failed to build: failed to find target x for context a"),
        ("-o type=local .", 1, "ERROR: failed to build: dest is required for local exporter"),
        ("-o type=tar,dest=/nope/x .", 1, "ERROR: failed to build: failed to open open /nope/x"),
        ("--platform foo/bar/baz/x .", 1, 'ERROR: failed to build: "foo/bar/baz/x": '),
        ("--add-host a .", 1, "ERROR: failed to build: invalid host a"),
        ("--push .", 1, "ERROR: failed to build: tag is needed when pushing to registry"),
        ("-t A .", 1, 'ERROR: failed to build: invalid tag "A": repository name must be lowercase'),
        ("nope", 1, 'ERROR: failed to build: unable to prepare context: path "nope" not found'),
        ("-f nope .", 1, "ERROR: failed to build: failed to solve: failed to read dockerfile: open "
         "nope: no such file or directory"),
        ("--target nope .", 1, 'failed to solve: target stage "nope" could not be found'),
        ("--shm-size x .", 125, 'invalid argument "x" for "--shm-size" flag: invalid size: \'x\''),
        ("--ulimit x .", 125, 'invalid argument "x" for "--ulimit" flag: invalid ulimit argument'),
        ("--foo .", 125, "unknown flag: --foo"),
        ("--ssh default .", 1, "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
    ],
)  # fmt: skip
def test_bad_flags(build: Build, flags: str, status: int, says: str) -> None:
    *words, place = flags.split()
    done = build(f"FROM {BASE}\n", *words, place=place, check=False, env={"SSH_AUTH_SOCK": ""})
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"FROM {BASE}\nRUNN echo\n", "dockerfile parse error on line 2: unknown instruction: RUNN "
         "(did you mean RUN?)"),
        (f"FROM {BASE}\nCOPY missing /\n", '"/missing": not found'),
        (f"FROM {BASE}\nCOPY ../../etc/passwd /\n", '"/etc/passwd": not found'),
        (f"FROM {BASE} AS a\nCOPY --from=b / /\nFROM a AS b\n", "b"),
        ("\n", "the Dockerfile cannot be empty"),
        (f"FROM {BASE}\nRUN --mount=type=secret,id=s,required cat /run/secrets/s\n",
         "secret s: not found"),
        (f"FROM {BASE}\nRUN --network=host true\n", "network.host is not allowed"),
        ("FROM 127.0.0.1:1/nope\n", "127.0.0.1:1"),
    ],
)  # fmt: skip
def test_bad_dockerfiles(build: Build, text: str, says: str) -> None:
    done = build(text, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ERROR: failed to build: failed to solve: ") and says in last


def test_calls(build: Build) -> None:
    text = (
        f"FROM {BASE} AS b\n# foo what it is for\nARG foo=bar\n"
        "RUN --mount=type=secret,id=x --mount=type=ssh true\nFROM b AS c\nCMD echo hi\n"
    )
    done = build(text, "--call=outline")
    assert done.stdout.split("\n\n")[:2] == [
        "TARGET: c", "BUILD ARG   VALUE   DESCRIPTION\nfoo         bar     what it is for",
    ]  # fmt: skip
    done = build(text, "--call=targets")
    assert done.stdout == "TARGET      DESCRIPTION\nb           \nc (default) \n"
    done = build(text, "--check", check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("Check complete, 1 warning has been found!\n\nWARNING: JSONArgs")
    assert "   6 | >>> CMD echo hi\n" in done.stdout
    assert build(f"FROM {BASE}\n", "--check").stdout == "Check complete, no warnings found.\n"


# -- attestations, caches, layouts ---------------------------------------------------------


def test_results_for_other_engines(build: Build, docker: Any, tmp_path: Path) -> None:
    """A layout with provenance, as a context again; a cache in a folder after all is forgotten."""
    layout, cache = tmp_path / "layout", tmp_path / "cache"
    text = f"FROM {BASE} AS one\nRUN date +%s%N > /stamp\nFROM {BASE}\nCOPY --from=one /stamp /s\n"
    build(
        text, "-o", f"type=oci,tar=false,dest={layout}", "--cache-to",
        f"type=local,dest={cache},mode=max", "--provenance=mode=max,version=v1", "--sbom=true",
    )  # fmt: skip
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    blobs = layout / "blobs/sha256"
    image, attested = json.loads((blobs / entry["digest"][7:]).read_text())["manifests"]
    layers = json.loads((blobs / attested["digest"][7:]).read_text())["layers"]
    kinds = [layer["annotations"]["in-toto.io/predicate-type"] for layer in layers]
    assert kinds == ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]
    statement = json.loads((blobs / layers[1]["digest"][7:]).read_text())
    assert statement["subject"][0]["digest"]["sha256"] == image["digest"][7:]
    request = statement["predicate"]["buildDefinition"]["externalParameters"]["request"]
    assert request["locals"] == [{"name": "context"}, {"name": "dockerfile"}]
    shown = build(
        "FROM layout\nRUN echo stamp $(cat /s)\n", "--build-context",
        f"layout=oci-layout://{layout}",
    ).stderr  # fmt: skip
    stamp = next(line.split()[-1] for line in shown.splitlines() if " stamp 1" in line)
    docker("builder", "prune", "-af")
    again = build(text, "-t", "psb-cache", "--cache-from", f"type=local,src={cache}")
    assert "importing cache manifest from local:" in again.stderr
    assert docker("run", "--rm", "psb-cache", "cat", "/s").stdout.strip() == stamp


def test_bad_attestations_and_caches(build: Build, tmp_path: Path) -> None:
    text = f"FROM {BASE}\n"
    for flags, told in (
        (["--cache-to", "type=gha"], 'unknown cache exporter: "gha"'),
        (["--cache-from", "type=registry"], "registry cache importer requires ref"),
        (["--cache-to", "type=registry"], "registry cache exporter requires ref"),
        (["--provenance=mode=most"], 'invalid mode "most" of provenance'),
        (["--attest=mode=min"], "attestation type not specified"),
        (["--sbom=true", "--attest=type=sbom"], "duplicate attestation field sbom"),
    ):
        done = build(text, *flags, check=False)
        assert done.returncode == 1 and told in done.stderr, done.stderr
    step = f"{text}RUN echo no cache\n"
    done = build(step, "--cache-from", "type=s3,bucket=b", "--cache-from", "BAD")
    assert 'unknown cache importer: "s3"' in done.stderr and "must be lowercase" in done.stderr
    done = build(text, "--cache-from", f"type=local,src={tmp_path}/nowhere")
    assert "WARNING: local cache import at" in done.stderr
