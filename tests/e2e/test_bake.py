"""``portside buildx bake`` beside ``docker buildx bake``: the same files, the same targets."""

import functools
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from buildxkit import PLUGINS

BASE = "portside/base"
Run = Callable[..., subprocess.CompletedProcess[str]]

TARGETS = """variable "TAG" { default = "v1" }
variable "N" {
  default = 3
  description = "a number"
}
variable "ON" { default = true }
variable "NUL" { default = null }
variable "REG" { default = "reg/${TAG}" }
function "inc" {
  params = [a]
  result = a + 1
}
glob = "al"
group "default" { targets = ["a", "m"] }
group "both" {
  targets = ["default", "b"]
  description = "all of it"
}
target "base" {
  args = { A = "base", Z = "z" }
  labels = { l = "1" }
  tags = ["base:1"]
  platforms = ["linux/amd64"]
  cache-from = ["type=registry,ref=x/y", "user/app:cache"]
}
target "a" {
  inherits = ["base"]
  context = "./dir"
  dockerfile = "x${TAG}-${upper("q")}"
  args = { A = TAG == "v1" ? "yes" : null, "b-c" = "${N}", I = inc(N), O = ON, NU = NUL, G = glob }
  tags = [for t in ["1","2", "3"] : "img:${t}" if t != "3"]
  output = ["type=docker", "type=local,dest=out"]
  secret = ["id=s,env=X"]
  attest = ["type=provenance,mode=max", "type=sbom"]
  annotations = ["k=v"]
  cache-to = ["type=local,dest=c,mode=max"]
  contexts = { n = "target:b", w = "docker-image://alpine" }
  target = "st"
  no-cache = true
  pull = false
  no-cache-filter = ["q"]
  shm-size = "128m"
  ulimits = ["nofile=1024:1024"]
  network = "host"
  entitlements = ["network.host"]
  extra-hosts = { h = "1.2.3.4" }
  description = "d"
  call = "check"
  dockerfile-inline = <<EOT
FROM alpine
RUN echo ${TAG}
EOT
}
target "b" { dockerfile = target.base.tags[0] }
target "m" {
  name = "m-${os}-${item.v}"
  matrix = {
   os = ["linux", "windows"]
   item = [{v = "1", w=[1]}, {v = "2-0", w=[]}]
  }
  args = { V = item.v, L = length(item.w) }
  tags = ["m:${os}-${item.v}"]
}
"""

FUNCTIONS = r"""variable "L" { default = ["a","b"] }
variable "M" { default = {x = "1", y = "2"} }
variable "T" {
 type = list(string)
 default = []
}
variable "E" { default = "" }
function "greet" {
  params = [n]
  variadic_params = rest
  result = "hi ${n} ${join("+", rest)}"
}
target "default" {
  args = {
   a = format("%s-%d-%05.1f %v %q %%", "x", 3, 2.5, true, "q")
   b = join(",", [for k, v in M : "${k}=${v}"])
   c = jsonencode({b=1, a=[1,"2",null,true]})
   d = regex_replace("hello-world", "(\\w+)-(\\w+)", "$2 $1")
   e = upper(substr("abcdef", 1, 3))
   f = greet("bob", "x", "y")
   g = "%{ if length(L) > 1 }many%{ else }one%{ endif } %{ for x in L }<${x}>%{ endfor }"
   h = coalesce(E, "", "dflt")
   i = notequal("", E) ? "set" : "unset"
   j = 10 / 4 + 2 * 3 - 7 % 4
   k = element(L, 3)
   l = lookup(M, "z", "none")
   m = try(M.nope, "caught")
   n = "$${esc} \"q\" \n\t é"
   o = length(setproduct(["a","b"], [1,2]))
   p = md5("x")
   q = base64encode("hello")
   r = replace("a.b.c", ".", "-")
   t = trimprefix("v1.2", "v")
   u = contains(L, "b") && !contains(L, "z")
   v = merge(M, {z = "3"})["z"]
   w = <<-EOT
      two
        ${L[0]}
   EOT
   x = max(1, 5, 3)
   y = join("", reverselist(["c","b","a"]))
   z = title("hello world")
   aa = split(",", "a,b,c")[1]
   ab = keys(M)[0]
   ac = try(tonumber("x"), "nofn")
   ad = range(3)[2]
   ae = sanitize("a/b:c")
   af = flatten([["a"], ["b", ["c"]]])[2]
   ag = chunklist(["a","b","c"], 2)[1][0]
   ah = concat(L, ["z"])[2]
   ai = 1 == 1.0
   aj = "${1 + 1}${true}"
   ak = join(" ", T)
   al = formatdate("YYYY-MM-DD", "2024-02-03T04:05:06Z")
   am = timeadd("2024-02-03T04:05:06Z", "1h30m")
   an = basename("/a/b.c")
   ao = dirname("/a/b.c")
   ap = indexof(["q","w"], "w")
   aq = strlen("é")
   ar = zipmap(["a"],["b"]).a
   as = urlencode("a b&c")
   at = -3
   au = floor(2.7) + ceil(2.1)
   av = csvdecode("a,b\n1,2")[0].b
   aw = (1 + 2) * 3
   ax = 3.14
   ay = 1e3
   az = cidrhost("10.12.112.0/20", 16)
   ba = cidrhost("10.12.112.0/20", -2)
   bb = cidrnetmask("172.16.0.0/12")
   bc = cidrsubnet("fd00:fd12:3456:7890::/56", 16, 162)
   bd = jsonencode(cidrsubnets("10.1.2.3/8", 8, 4, 8, 10))
   bg = try(cidrsubnet("10.0.0.0/30", 8, 1), "too long")
   bh = try(rsadecrypt("x", "y"), "no key")
   bj = strlen(bcrypt("x", 4))
   bk = substr(bcrypt("x", 4), 0, 7)
  }
  tags = compact(["x", "", "y"])
}
"""

CONVERSIONS = """target "default" {
  args = {
   a = jsonencode([convert("1", number), convert([2, "x"], list(string)), convert("true", bool)])
  }
}
"""

JSON = """{
  "variable": {"TAG": {"default": "v1"}},
  "group": {"default": {"targets": ["web", "api"]}},
  "target": {
    "web": {"dockerfile": "${TAG}.Dockerfile", "tags": ["web:${TAG}"], "args": {"A": "1"}},
    "api": {"inherits": ["web"], "args": {"B": "%{ if TAG == \\"v1\\" }one%{ endif }"}}
  }
}"""

COMPOSE = """
services:
  web:
    image: me/web:1
    build:
      context: ./web
      dockerfile: D
      args: {A: "1", B: null}
      target: t
      tags: [x:1]
      cache_from: [x]
      labels: {l: v}
      platforms: [linux/amd64]
      x-bake:
        output: type=docker
        no-cache: true
  db: {image: postgres}
  w2: {build: .}
  w3:
    build:
      context: .
      additional_contexts: {other: "service:web", folder: ./web}
      secrets: [file, {source: variable, target: else}]
      extra_hosts: ["one:192.0.2.1", "one:192.0.2.2", "two:192.0.2.3"]
      ulimits: {nofile: {soft: 10, hard: 20}}
      provenance: mode=max
      sbom: true
secrets:
  file: {file: ./token}
  variable: {environment: TOKEN}
"""


@pytest.fixture
def bake(docker_env: dict[str, str], tmp_path: Path) -> Run:
    """``bake("portside"|"docker", *arguments)`` in a directory of the test."""
    config = tmp_path / ".docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": PLUGINS}))
    place = tmp_path / "project"
    (place / "web").mkdir(parents=True)

    def run(program: str, *args: str, env: dict[str, str] | None = None, check: bool = True) -> Any:
        ours = [sys.executable, "-m", "portside", "buildx", "bake"]
        environment = {**docker_env, "DOCKER_CONFIG": str(config), "X": "1", **(env or {})}
        done = subprocess.run(
            [*(ours if program == "portside" else ["docker", "buildx", "bake"]), *args],
            env=environment, cwd=place, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"{program} {args}: {done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.mark.parametrize(
    ("name", "text", "args", "env"),
    [
        ("docker-bake.hcl", TARGETS, ["both"], {}),
        ("docker-bake.hcl", TARGETS, ["a"], {"TAG": "zz", "N": "8", "ON": "false"}),
        ("docker-bake.hcl", TARGETS, ["--push"], {}),
        ("docker-bake.hcl", TARGETS, ["--load", "--no-cache", "--provenance=false", "b"], {}),
        ("docker-bake.hcl", TARGETS, [
            "a", "--set", "a.args.A=set", "--set", "*.platform=linux/arm64", "--set",
            "a.tags+=more", "--set", "a.output=type=registry", "--set", "a.no-cache=false",
            "--set", "a.cache-from=x",
        ], {}),
        ("docker-bake.hcl", FUNCTIONS, [], {}),
        ("docker-bake.hcl", FUNCTIONS, [], {"T": "1,2", "E": "e"}),
        ("docker-bake.hcl", CONVERSIONS, [], {}),
        ("docker-bake.json", JSON, [], {"TAG": "v2"}),
        ("compose.yaml", COMPOSE, [], {}),
    ],
)  # fmt: skip
def test_targets_are_bakes(
    bake: Run, tmp_path: Path, name: str, text: str, args: list[str], env: dict[str, str]
) -> None:
    (tmp_path / "project" / name).write_text(text)
    (tmp_path / "project" / "token").write_text("secret")
    ours = json.loads(bake("portside", "--print", *args, env=env).stdout)
    theirs = json.loads(bake("docker", "--print", *args, env=env).stdout)
    for found in (ours, theirs):  # the order within a matrix is not fixed there
        for group in found["group"].values():
            group["targets"].sort()
    assert ours == theirs


def test_what_was_encrypted_is_read_as_by_bake(bake: Run, tmp_path: Path) -> None:
    import base64

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()  # fmt: skip
    data = base64.b64encode(key.public_key().encrypt(b"a secret", padding.PKCS1v15())).decode()
    text = f'target "default" {{\n args = {{ a = rsadecrypt("{data}", <<EOT\n{pem}EOT\n) }}\n}}\n'
    (tmp_path / "project/docker-bake.hcl").write_text(text)
    for program in ("portside", "docker"):
        found = json.loads(bake(program, "--print").stdout)
        assert found["target"]["default"]["args"] == {"a": "a secret"}


def test_lists_are_bakes(bake: Run, tmp_path: Path) -> None:
    (tmp_path / "project/docker-bake.hcl").write_text(TARGETS)
    for what in ("variables", "type=variables,format=json"):
        assert bake("portside", f"--list={what}").stdout == bake("docker", f"--list={what}").stdout
    ours, theirs = (json.loads(bake(program, "--list=type=targets,format=json").stdout)
                    for program in ("portside", "docker"))  # fmt: skip
    assert [entry["name"] for entry in ours] == [entry["name"] for entry in theirs]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('target "a" { tags = ["x" }\n', "docker-bake.hcl:1"),
        ('target "default" { dockerfile = nothing }\n', 'no variable named "nothing"'),
        ('target "default" { dockerfile = nofunction("x") }\n', 'no function named "nofunction"'),
        ('variable "V" {\n  default = 1\n  validation {\n    condition = V > 1\n'
         '    error_message = "too small"\n  }\n}\ntarget "default" {}\n', "too small"),
        ('variable "A" { default = B }\nvariable "B" { default = A }\n'
         'target "default" { dockerfile = A }\n', "cycle"),
        ('group "default" { targets = ["none"] }\n', "failed to find target none"),
    ],
)  # fmt: skip
def test_faults_are_reported(bake: Run, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "project/docker-bake.hcl").write_text(text)
    done = bake("portside", "--print", check=False)
    assert done.returncode == 1 and told in done.stderr, done.stderr
    assert bake("docker", "--print", check=False).returncode == 1


def test_targets_are_built_together(bake: Run, docker: Any, tmp_path: Path) -> None:
    """One target is another's context; a failing one ends with its name and its lines."""
    (tmp_path / "project/docker-bake.hcl").write_text(
        f"""
group "default" {{ targets = ["app", "tool"] }}
target "common" {{ dockerfile-inline = "FROM {BASE}\\nRUN echo common > /common\\n" }}
target "app" {{
  contexts = {{ common = "target:common" }}
  dockerfile-inline = <<EOT
FROM common
ARG WORD
RUN echo $WORD >> /common
EOT
  args = {{ WORD = "app" }}
  tags = ["bake-app"]
}}
target "tool" {{
  dockerfile-inline = "FROM {BASE}\\nRUN echo tool > /common\\n"
  tags = ["bake-tool", "bake-tool:2"]
}}
target "broken" {{ dockerfile-inline = "FROM {BASE}\\nRUN exit 3\\n" }}
"""
    )
    metadata = tmp_path / "metadata"
    done = bake("portside", "--progress=plain", "--metadata-file", str(metadata))
    assert "[app 2/2] RUN echo app >> /common" in done.stderr
    assert docker("run", "--rm", "bake-app", "cat", "/common").stdout == "common\napp\n"
    assert docker("run", "--rm", "bake-tool:2", "cat", "/common").stdout == "tool\n"
    found = json.loads(metadata.read_text())
    assert found["app"]["image.name"] == "docker.io/library/bake-app:latest"
    assert set(found) == {"app", "common", "tool"}
    failed = bake("portside", "--progress=plain", "broken", "tool", check=False)
    assert failed.returncode == 1
    assert "target broken: failed to solve: process" in failed.stderr


REMOTE = f"""
variable "TAG" {{ default = "v1" }}
group "default" {{ targets = ["here", "app", "local"] }}
target "here" {{ tags = ["remote:${{TAG}}"] }}
target "app" {{
  context = "./app"
  contexts = {{ dot = ".", folder = "app", mine = "cwd://loc", image = "docker-image://{BASE}" }}
}}
target "local" {{ context = BAKE_CMD_CONTEXT }}
target "folder" {{
  context = "cwd://loc"
  dockerfile = "cwd://loc/Dockerfile.here"
}}
target "else" {{
  context = "https://example.org/x.git"
  dockerfile = "app/D"
}}
target "out" {{ context = "cwd://../elsewhere" }}
target "key" {{ secret = ["id=k,src=/etc/shadow"] }}
target "link" {{ dockerfile = "shadow" }}
target "built" {{
  context = "app"
  contexts = {{ mine = "cwd://loc" }}
  tags = ["remote-built"]
}}
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a directory that git and HTTP serve: ``//HOST:PORT/`` with a repository
    ``repo.git`` for git, and the bake file and an archive of the same files on the port above."""
    top = tmp_path_factory.mktemp("remote")
    work = top / "work"
    (work / "app").mkdir(parents=True)
    (work / "docker-bake.hcl").write_text(REMOTE)
    (work / "compose.yaml").write_text(
        "services:\n  web: {build: ./app, image: w}\n  x: {build: .}\n"
    )
    (work / "Dockerfile").write_text(f"FROM {BASE}\n")
    (work / "app/Dockerfile").write_text(
        f"FROM {BASE}\nCOPY --from=mine note /\nCOPY word /\nRUN cat /note /word > /both\n"
    )
    (work / "app/word").write_text("far\n")
    (work / "shadow").symlink_to("/etc/passwd")

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(work), *words], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    git("branch", "dev")
    subprocess.run(
        ["git", "clone", "-q", "--bare", str(work), str(top / "repo.git")], check=True
    )  # fmt: skip
    with tarfile.open(top / "files.tar.gz", "w:gz") as archive:
        for name in ("docker-bake.hcl", "Dockerfile", "app"):
            archive.add(work / name, name)
    (top / "plain.hcl").write_text(REMOTE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(top))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={top}", "--listen=127.0.0.1",
         f"--port={port}", str(top)], stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"git://127.0.0.1:{port}/repo.git"
    try:
        end = time.monotonic() + 30
        while subprocess.run(["git", "ls-remote", url], capture_output=True).returncode:
            assert time.monotonic() < end, "git daemon does not answer"
            time.sleep(0.1)
        yield f"{url} http://127.0.0.1:{server.server_port}"
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "args",
    [
        ["GIT"],
        ["GIT#dev", "here", "app", "folder", "else", "out"],
        ["GIT#:app", "-f", "../docker-bake.hcl"],
        ["GIT", "WEB/plain.hcl", "local", "app"],
        ["-f", "cwd://over.hcl", "GIT", "here"],
        ["-f", "docker-bake.hcl", "-f", "cwd://over.hcl", "GIT", "here"],
        ["-f", "over.hcl", "GIT", "here"],
        ["-f", "compose.yaml", "GIT"],
        ["WEB/plain.hcl", "here", "app", "local"],
        ["WEB/work/compose.yaml"],
        ["WEB/nothing.hcl"],
        ["GIT#nothing"],
        ["-f", "cwd://over.hcl", "here"],
    ],
)
def test_remote_definitions_are_bakes(
    bake: Run, tmp_path: Path, remote: str, args: list[str]
) -> None:
    (tmp_path / "project/over.hcl").write_text('target "here" { args = { L = "local" } }\n')
    git, web = remote.split()
    words = [word.replace("GIT", git).replace("WEB", web) for word in args]
    ours = bake("portside", "--print", *words, check=False)
    theirs = bake("docker", "--print", *words, check=False)
    assert ours.returncode == theirs.returncode, f"{ours.stderr}\n{theirs.stderr}"
    assert ours.stdout == theirs.stdout


def test_remote_definitions_are_built(bake: Run, docker: Any, tmp_path: Path, remote: str) -> None:
    """A folder of the remote and one of the working directory, by both commands; nothing outside
    of the two without being allowed."""
    git, web = remote.split()
    mine = tmp_path / "project/loc"
    mine.mkdir()
    for number, (program, url) in enumerate(
        (("portside", git), ("docker", git), ("portside", f"{web}/files.tar.gz"))
    ):
        (mine / "note").write_text(f"near {number}\n")
        bake(program, url, "built", "--set=built.output=type=docker")
        assert (
            docker("run", "--rm", "remote-built", "cat", "/both").stdout == f"near {number}\nfar\n"
        )
    for target, told in (
        ("out", f"allow it with --allow fs={tmp_path}/elsewhere"),
        ("key", "allow it with --allow fs=/etc/shadow"),
        ("link", "leads out of the remote definition"),
    ):
        failed = bake("portside", git, target, check=False)
        assert failed.returncode == 1 and told in failed.stderr, failed.stderr
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/Dockerfile").write_text(f"FROM {BASE}\n")
    bake("portside", git, "out", f"--allow=fs={tmp_path}/elsewhere")
