"""Graphs that a hostile client sends get an error, whatever they are made of."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.builder import llb
from portside.builder.wire.definition_decoder import MAX_OP, decode
from portside.builder.wire.proto import ops_pb2 as pb
from portside.model.errors import InvalidParameter, PortsideError


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _source(name: str = "docker-image://docker.io/library/base:latest") -> bytes:
    data: bytes = pb.Op(source=pb.SourceOp(identifier=name)).SerializeToString()
    return data


def _file(*inputs: pb.Input, number: int = 0, path: str = "/d") -> bytes:
    action = pb.FileAction(
        input=number, secondaryInput=-1, mkdir=pb.FileActionMkDir(path=path, mode=0o755)
    )
    data: bytes = pb.Op(inputs=inputs, file=pb.FileOp(actions=[action])).SerializeToString()
    return data


def _end(digest: str, index: int = 0) -> bytes:
    data: bytes = pb.Op(inputs=[pb.Input(digest=digest, index=index)]).SerializeToString()
    return data


def _definition(*operations: bytes) -> Any:
    return pb.Definition(**{"def": list(operations)})


def test_a_chain_as_long_as_may_be_is_decoded_without_recursion() -> None:
    operations = [_source()]
    for number in range(5000):
        below = pb.Input(digest=_digest(operations[-1]))
        operations.append(_file(below, path=f"/d{number}"))
    found = decode(_definition(*operations, _end(_digest(operations[-1]))))
    assert found is not None
    assert sum(1 for _ in llb.walk([found])) == 5001


def test_a_million_vertices_are_refused_before_they_are_read() -> None:
    one = b"not an operation"
    with pytest.raises(InvalidParameter, match=f"more than {llb.MAX_VERTICES} vertices"):
        decode(_definition(*[one] * 1_000_000))


def test_an_operation_has_a_limit() -> None:
    large = _source("docker-image://" + "a" * MAX_OP)
    with pytest.raises(InvalidParameter, match="larger than"):
        decode(_definition(large, _end(_digest(large))))


def test_operations_that_name_each_other_find_nothing() -> None:
    """A digest of bytes that hold it cannot be made: each of them names what is not there."""
    first = _file(pb.Input(digest=_digest(b"second")))
    second = _file(pb.Input(digest=_digest(first)), path="/second")
    with pytest.raises(InvalidParameter, match="has no operation"):
        decode(_definition(first, second, _end(_digest(second))))


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ([_source()], "does not end with its result"),
        ([_source(), _end(_digest(b"else"))], "has no operation"),
        ([_source(), _end("x" * 10_000)], "has no operation x"),
        ([_source(), _end(_digest(_source()), 7)], "there is no output 7"),
        ([_source(), _end(_digest(_source()), -1)], "there is no output -1"),
        ([b"\xff\xff\xff", _end("x")], "malformed"),
        ([_source("nonsense"), _end(_digest(_source("nonsense")))], "unknown source scheme"),
    ],
)
def test_graphs_that_name_what_they_do_not_have(operations: list[bytes], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        decode(_definition(*operations))
    assert len(str(caught.value)) < 400


@given(number=st.integers(-(2**62), 2**62), index=st.integers(-(2**62), 2**62))
def test_numbers_of_inputs_are_checked(number: int, index: int) -> None:
    base = _source()
    action = _file(pb.Input(digest=_digest(base), index=index), number=number)
    definition = _definition(base, action, _end(_digest(action)))
    if index == 0 and number in (-1, 0):
        assert decode(definition) is not None
    else:
        with pytest.raises(PortsideError):
            decode(definition)


@given(operations=st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_wild_bytes_are_an_error(operations: list[bytes]) -> None:
    with pytest.raises(PortsideError):
        decode(_definition(*operations))
