"""A frontend for tests: it speaks the gateway protocol over its standard input and output, and does
what its build argument ``ACT`` says. Runs in a container, with grpclib and the engine's messages.
"""

import asyncio
import hashlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from grpclib.client import Channel
from grpclib.const import Cardinality

from portside.builder.wire.proto import gateway_pb2 as pb
from portside.builder.wire.proto import ops_pb2 as ops
from portside.builder.wire.proto import status_pb2

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
OPTIONS = dict(
    value.split("=", 1)
    for name, value in os.environ.items()
    if name.startswith("BUILDKIT_FRONTEND_OPT_")
)
ACT = OPTIONS.get("build-arg:ACT", "build")
BASE = "docker-image://docker.io/portside/base:latest"


class Stdio(Channel):
    """gRPC over the standard streams."""

    async def _create_connection(self) -> Any:
        ours, theirs = socket.socketpair()

        def read() -> None:
            while data := os.read(0, 1 << 16):
                theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)

        def write() -> None:
            while data := theirs.recv(1 << 16):
                while data:
                    data = data[os.write(1, data) :]

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(self._protocol_factory, sock=ours))[1]


channel = Stdio("localhost", 0)


async def call(name: str, **fields: Any) -> Any:
    reply = {"Ping": "Pong"}.get(name, name)
    request = getattr(pb, f"{name}Request")(**fields)
    stream = channel.request(
        BRIDGE + name, Cardinality.UNARY_UNARY, type(request), getattr(pb, f"{reply}Response")
    )
    async with stream:
        await stream.send_message(request, end=True)
        return await stream.recv_message()


def packed(op: Any) -> tuple[bytes, str]:
    data = op.SerializeToString(deterministic=True)
    return data, f"sha256:{hashlib.sha256(data).hexdigest()}"


def definition(*operations: Any) -> Any:
    """A chain: each on the one before it, the last one named as the result."""
    found, below = [], ""
    for op in operations:
        if below:
            op.inputs.append(ops.Input(digest=below))
        data, below = packed(op)
        found.append(data)
    found.append(packed(ops.Op(inputs=[ops.Input(digest=below)]))[0])
    return ops.Definition(**{"def": found})


def source(name: str, **attrs: str) -> Any:
    return ops.Op(source=ops.SourceOp(identifier=name, attrs=attrs))


def run(command: str) -> Any:
    meta = ops.Meta(args=["/bin/sh", "-c", command], env=["PATH=/bin:/usr/bin"], cwd="/")
    root = ops.Mount(input=0, dest="/", output=0)
    return ops.Op(exec=ops.ExecOp(meta=meta, mounts=[root]))


async def solved(*operations: Any) -> str:
    answer = await call(
        "Solve", Definition=definition(*operations), allowResultReturn=True,
        allowResultArrayRef=True,
    )  # fmt: skip
    return str(answer.result.ref.id)


async def give(ref: str, **metadata: bytes) -> None:
    await call("Return", result=pb.Result(ref=pb.Ref(id=ref), metadata=metadata))


async def build() -> None:
    """Each line ``WRITE text`` of the file is a line of ``/made``."""
    name = OPTIONS.get("filename", "Dockerfile")
    session = os.environ["BUILDKIT_SESSION_ID"]
    attrs = {"local.session": session, "local.followpaths": json.dumps([name])}
    local = await solved(source("local://dockerfile", **attrs))
    text = (await call("ReadFile", Ref=local, FilePath=name)).Data.decode()
    words = [line.partition(" ")[2] for line in text.splitlines() if line.startswith("WRITE ")]
    caps = await call("Ping")
    workers = json.loads(os.environ["BUILDKIT_WORKERS"])
    found = await call("ResolveImageConfig", Ref="docker.io/portside/base:latest")
    meta = await call("ResolveSourceMeta", Source=source(BASE).source)
    assert meta.Image.Digest == found.Digest
    assert (await call("Inputs")).Definitions == {}
    ref = await solved(source(BASE), run(f"echo {' '.join(words)} > /made; ln -s made /link"))
    await call("Evaluate", Ref=ref)
    made = (await call("ReadFile", Ref=ref, FilePath="/made")).Data.decode()
    entries = await call("ReadDir", Ref=ref, DirPath="/", IncludePattern="ma*")
    about = await call("StatFile", Ref=ref, Path="link")
    told = {
        "made": made.strip(), "entries": [e.path for e in entries.entries],
        "link": about.stat.linkname, "product": os.environ["BUILDKIT_EXPORTEDPRODUCT"],
        "exec": any(cap.ID == "gateway.exec" for cap in caps.FrontendAPICaps),
        "workers": [sorted(worker) for worker in workers], "source": OPTIONS["source"],
        "cmdline": OPTIONS["cmdline"], "uid": os.getuid(),
        "links": sorted(os.listdir("/sys/class/net")),
    }  # fmt: skip
    print("TOLD", json.dumps(told), file=sys.stderr, flush=True)
    await call("Warn", level=1, short=b"a warning of the frontend's", digest="sha256:" + "0" * 64)
    config = json.loads(found.Config)
    config["config"] = {**(config.get("config") or {}), "Labels": {"made-by": "frontend"}}
    await give(ref, **{"containerimage.config": json.dumps(config).encode()})


async def delegate() -> None:
    """The Dockerfile goes to the built-in frontend."""
    answer = await call(
        "Solve", Frontend="dockerfile.v0", FrontendOpt=OPTIONS, allowResultReturn=True,
        allowResultArrayRef=True,
    )  # fmt: skip
    await call("Return", result=answer.result)


async def directories() -> None:
    """Parts of the client's directory, as the patterns choose them."""
    told = {}
    for name, attrs in (
        ("all", {}),
        ("include", {"local.includepattern": ["src", "*.txt"]}),
        ("exclude", {"local.excludepatterns": ["src/*", "!src/b"]}),
        ("both", {"local.includepattern": ["src"], "local.excludepatterns": ["**/b"]}),
        ("follow", {"local.followpaths": ["link"]}),
    ):
        packed_attrs = {key: json.dumps(value) for key, value in attrs.items()}
        ref = await solved(source("local://context", **packed_attrs))
        told[name] = await walked(ref, "")
    print("TOLD", json.dumps(told), file=sys.stderr, flush=True)
    copied = ops.FileAction(
        input=0, secondaryInput=1, output=0,
        copy=ops.FileActionCopy(src="/", dest="/in", dirCopyContents=True, createDestPath=True),
    )  # fmt: skip
    base, base_digest = packed(source(BASE))
    local, local_digest = packed(source("local://context"))
    below = [ops.Input(digest=base_digest), ops.Input(digest=local_digest)]
    copy, copy_digest = packed(ops.Op(inputs=below, file=ops.FileOp(actions=[copied])))
    end = packed(ops.Op(inputs=[ops.Input(digest=copy_digest)]))[0]
    graph = ops.Definition(**{"def": [base, local, copy, end]})
    answer = await call("Solve", Definition=graph, allowResultReturn=True, allowResultArrayRef=True)
    await give(answer.result.ref.id)


async def walked(ref: str, path: str) -> list[str]:
    found = []
    for entry in (await call("ReadDir", Ref=ref, DirPath=path or "/")).entries:
        name = f"{path}/{entry.path}" if path else entry.path
        found.append(name)
        if entry.mode & 1 << 31:
            found += await walked(ref, name)
    return found


async def sources() -> None:
    """What is known of the sources that ``SOURCES`` names."""
    told = []
    for name in OPTIONS["build-arg:SOURCES"].split():
        found = await call(
            "ResolveSourceMeta", LogName=name,
            Source=source(name, **{"git.fullurl": OPTIONS["build-arg:URL"]}).source,
            Git=pb.ResolveSourceGitRequest(ReturnObject=True),
        )  # fmt: skip
        git, http = found.Git, found.HTTP
        told.append([
            git.Ref, git.Checksum, git.CommitChecksum, git.CommitObject.decode(),
            git.TagObject.decode(), http.Checksum, http.Filename, http.LastModified.seconds,
            found.Source.identifier,
        ])  # fmt: skip
    raise RuntimeError("TOLD " + json.dumps({"sources": told}))


class Processes:
    """One call of ExecProcess."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.output: dict[tuple[str, int], bytes] = {}
        self.codes: dict[str, int] = {}

    async def start(self, name: str, *args: str, tty: bool = False) -> None:
        meta = ops.Meta(args=args, env=["PATH=/bin", "A=b"], cwd="/tmp")
        init = pb.InitMessage(ContainerID="one", Meta=meta, Fds=[0, 1, 2], Tty=tty)
        await self.send(name, Init=init)

    async def send(self, name: str, **fields: Any) -> None:
        await self.stream.send_message(pb.ExecMessage(ProcessID=name, **fields))

    async def until(self, *kinds: str) -> Any:
        """The next message of one of these kinds; output is kept."""
        while (message := await self.stream.recv_message()) is not None:
            if message.WhichOneof("Input") == "File":
                key = (message.ProcessID, message.File.Fd)
                self.output[key] = self.output.get(key, b"") + message.File.Data
            elif message.WhichOneof("Input") == "Exit":
                self.codes[message.ProcessID] = message.Exit.Code
            if message.WhichOneof("Input") in kinds:
                return message
        raise EOFError


async def containers() -> None:
    ref = await solved(source(BASE), run("echo below > /below"))
    mounts = [
        ops.Mount(dest="/", resultID=ref), ops.Mount(dest="/t", mountType=ops.TMPFS, input=-1),
    ]  # fmt: skip
    await call("NewContainer", ContainerID="one", Mounts=mounts, hostname="beside")
    stream = channel.request(
        BRIDGE + "ExecProcess", Cardinality.STREAM_STREAM, pb.ExecMessage, pb.ExecMessage
    )
    async with stream:
        talk = Processes(stream)
        script = "cat /below; hostname; pwd; echo $A >&2; read x; echo got $x > /said; read y; :"
        await talk.start("first", "/bin/sh", "-c", script)
        await talk.until("Started")
        await talk.send("first", File=pb.FdMessage(Fd=0, Data=b"words\n"))
        await talk.start("second", "/bin/sh", "-c", "until cat /said; do sleep .1; done; exit 7")
        await talk.until("Done")
        await talk.start("third", "/bin/sh", "-c", "stty size; sleep 60", tty=True)
        await talk.until("Started")
        await talk.send("third", Signal=pb.SignalMessage(Name="SIGKILL"))
        await talk.until("Done")
        await talk.start("none", "/no/such/program")
        await talk.until("Done")
        await talk.send("first", File=pb.FdMessage(Fd=0, EOF=True))
        await talk.until("Done")
        await stream.end()
    await call("ReleaseContainer", ContainerID="one")
    told = {f"{n} {fd}": data.decode().strip() for (n, fd), data in talk.output.items()}
    print("TOLD", json.dumps({**told, "codes": talk.codes}), file=sys.stderr, flush=True)
    await give(ref)


async def left() -> None:
    """A container is left running when the frontend ends."""
    ref = await solved(source(BASE))
    await call("NewContainer", ContainerID="one", Mounts=[ops.Mount(dest="/", resultID=ref)])
    stream = channel.request(
        BRIDGE + "ExecProcess", Cardinality.STREAM_STREAM, pb.ExecMessage, pb.ExecMessage
    )
    async with stream:
        talk = Processes(stream)
        await talk.start("first", "/bin/sleep", "4444")
        await talk.until("Started")
        os._exit(5)


async def hostile() -> None:
    if ACT == "exit":
        print("nothing to say", file=sys.stderr, flush=True)
        os._exit(3)
    if ACT == "garbage":
        os.write(1, b"GET / HTTP/1.1\r\n\r\n" * 1000)
        time.sleep(600)
    if ACT == "close":
        print("closing", file=sys.stderr, flush=True)
        os.close(0)
        os.close(1)
        time.sleep(600)
    if ACT == "hang":
        await call("Ping")
        time.sleep(600)
    if ACT == "cycle":
        one = ops.Op(inputs=[ops.Input(digest="sha256:" + "1" * 64)], merge=ops.MergeOp())
        await solved(one, ops.Op(inputs=[ops.Input(digest=packed(one)[1])], merge=ops.MergeOp()))
    if ACT == "million":
        await call("Solve", Definition=ops.Definition(**{"def": [b"\n\0"] * 1_000_000}))
    if ACT == "digest":
        end = ops.Op(inputs=[ops.Input(digest="sha256:" + "2" * 64)]).SerializeToString()
        await call("Solve", Definition=ops.Definition(**{"def": [end]}))
    if ACT == "huge":
        await call("Warn", level=1, short=b"x" * (17 << 20))
    if ACT == "warnings":
        for number in range(1001):
            await call("Warn", level=1, short=b"%d" % number)
    if ACT == "recursive":
        answer = await call("Solve", Frontend="gateway.v0", FrontendOpt=OPTIONS)
        await call("Return", result=answer.result)
    if ACT == "refs":
        await give("no-such-result")
    if ACT == "insecure":
        op = run("id")
        op.exec.security = ops.INSECURE
        await call("Evaluate", Ref=await solved(source(BASE), op))
    if ACT == "escape":
        ref = await solved(source(BASE), run("ln -s /proc/1/root/etc/passwd /p; ln -s ../../.. /u"))
        for path in ("/p", "/u/etc/hostname", "../../../../etc/hostname"):
            try:
                data = (await call("ReadFile", Ref=ref, FilePath=path)).Data
            except Exception as err:
                data = str(err).encode()
            print("READ", path, data[:80], file=sys.stderr, flush=True)
        raise RuntimeError("done")
    raise RuntimeError(f"unexpected success of {ACT}")


ACTS = {"build": build, "delegate": delegate, "containers": containers, "left": left,
        "directories": directories, "sources": sources}  # fmt: skip


async def main() -> None:
    try:
        await ACTS.get(ACT, hostile)()
    except Exception as err:
        text = f"{ACT}: {getattr(err, 'message', None) or err}"[:2000]
        await call("Return", error=status_pb2.Status(code=2, message=text))


asyncio.run(main())
os._exit(0)
