"""A client's graph is decoded into ours, or refused."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.builder import llb
from portside.builder.wire.definition_decoder import decode
from portside.builder.wire.definition_encoder import encode
from portside.builder.wire.proto import ops_pb2 as pb
from portside.model.errors import PortsideError


def graph() -> llb.Output:
    base = llb.image("docker.io/library/busybox:latest", name="FROM busybox")
    run = llb.ExecOp(
        meta=llb.Meta(args=("sh", "-c", "true"), env=("A=1",), user="1",
                      extra_hosts=(llb.HostAlias(host="h", ip="1.2.3.4"),),
                      ulimits=(llb.UlimitOpt(name="nofile", soft=1, hard=2),)),
        mounts=(
            llb.Mount(dest="/", input=0, output=0),
            llb.Mount(dest="/c", type="cache", cache=llb.CacheOpt(id="c", sharing="locked")),
            llb.Mount(dest="/s", type="secret", secret=llb.SecretOpt(id="s", uid=1, mode=0o440)),
            llb.Mount(dest="/a", type="ssh", secret=llb.SecretOpt(id="default", optional=True)),
            llb.Mount(dest="/t", type="tmpfs", tmpfs_size=4096),
        ),
        network="none",
        secret_env=(llb.SecretEnv(id="e", name="E"),),
    )  # fmt: skip
    ran = llb.Vertex(run, (base,), meta=llb.VertexMeta(name="[2/3] RUN true")).output()
    owner = llb.ChownOpt(user=llb.UserOpt(name="me", input=0), group=llb.UserOpt(id=7))
    copied = llb.file_op(
        ran,
        [
            (llb.MakeDir(path="/d", make_parents=True), None),
            (llb.CopyAction(src="/f", dest="/d/", mode="0644", owner=owner), llb.local("context")),
            (llb.Remove(path="/x", allow_not_found=True), None),
            (llb.Symlink(old_path="/d", new_path="/e"), None),
            (llb.MakeFile(path="/g", data=b"\0\xff"), None),
        ],
        llb.VertexMeta(name="[3/3] COPY f /d/"),
    )  # fmt: skip
    diff = llb.Vertex(llb.DiffOp(lower=0, upper=1), (base, copied)).output()
    return llb.merge([base, diff], llb.VertexMeta())


def test_a_graph_comes_back_as_it_was() -> None:
    given_, found = graph(), decode(encode(graph()))
    assert found is not None
    assert found.vertex.digest == given_.vertex.digest
    names = [vertex.meta.name for vertex in llb.walk([found])]
    assert "[2/3] RUN true" in names and "[3/3] COPY f /d/" in names


def test_no_graph_is_an_empty_root() -> None:
    assert decode(pb.Definition()) is None


def definition(*operations: Any) -> Any:
    found = pb.Definition()
    getattr(found, "def").extend(op.SerializeToString() for op in operations)
    return found


def digest(op: Any) -> str:
    return f"sha256:{hashlib.sha256(op.SerializeToString()).hexdigest()}"


SOURCE = pb.Op(source=pb.SourceOp(identifier="docker-image://a"))


def last(op: Any, index: int = 0) -> Any:
    return pb.Op(inputs=[pb.Input(digest=digest(op), index=index)])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (definition(SOURCE), "does not end with its result"),
        (definition(SOURCE, pb.Op(inputs=[pb.Input(digest="sha256:00")])), "no operation"),
        (definition(SOURCE, last(SOURCE, 5)), "no output 5"),
        (definition(SOURCE, last(SOURCE, -1)), "no output -1"),
        (definition(pb.Op(build=pb.BuildOp()), last(pb.Op(build=pb.BuildOp()))), "not supported"),
        (definition(pb.Op(exec=pb.ExecOp()), last(pb.Op(exec=pb.ExecOp()))), "one mount at /"),
        (definition(pb.Op(source=pb.SourceOp(identifier="no://x")),
                    last(pb.Op(source=pb.SourceOp(identifier="no://x")))), "unknown source"),
        (definition(pb.Op(source=pb.SourceOp(identifier="a" * (5 << 20))), last(SOURCE)),
         "larger than"),
    ],
)  # fmt: skip
def test_malformed_graphs_are_refused(found: Any, words: str) -> None:
    with pytest.raises(PortsideError, match=words):
        decode(found)


def test_a_graph_that_is_too_large_is_refused() -> None:
    found = pb.Definition()
    getattr(found, "def").extend([b""] * (llb.MAX_VERTICES + 1))
    with pytest.raises(PortsideError, match="more than"):
        decode(found)


def test_a_long_chain_needs_no_deep_stack() -> None:
    operations = [SOURCE]
    for number in range(3000):
        action = pb.FileAction(mkdir=pb.FileActionMkDir(path=f"/{number}"), output=0)
        inputs = [pb.Input(digest=digest(operations[-1]))]
        operations.append(pb.Op(inputs=inputs, file=pb.FileOp(actions=[action])))
    found = decode(definition(*operations, last(operations[-1])))
    assert found is not None and sum(1 for _ in llb.walk([found])) == 3001


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(-3, 3))
def test_wild_bytes_are_refused_or_decoded(operations: list[bytes], index: int) -> None:
    found = pb.Definition()
    getattr(found, "def").extend(operations)
    if operations:
        name = f"sha256:{hashlib.sha256(operations[0]).hexdigest()}"
        end = pb.Op(inputs=[pb.Input(digest=name, index=index)])
        getattr(found, "def").append(end.SerializeToString())
    try:
        decode(found)
    except PortsideError:
        pass
