"""The runtime's stand-in for msgspec: the same values and the same errors for specifications."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.model import ociruntime
from portside.runtime.oci import light_structs


def _light_types() -> ModuleType:
    """The specification's types once more, made of the stand-in's structs."""
    name = "portside.model.ociruntime"
    kept = {each: sys.modules[each] for each in ("msgspec", name)}
    try:
        sys.modules["msgspec"] = light_structs
        del sys.modules[name]
        return importlib.import_module(name)
    finally:
        made = sys.modules.get(name)
        sys.modules.update(kept)
        if made is not None:
            sys.modules["light_ociruntime"] = made
            for value in vars(made).values():
                if isinstance(value, type) and value.__module__ == name:
                    value.__module__ = "light_ociruntime"
            importlib.import_module("portside.model").ociruntime = kept[name]  # type: ignore[attr-defined]


LIGHT = _light_types()


def _both(data: bytes) -> tuple[Any, Any]:
    """What each makes of a document: a value as JSON, or the text of the error."""
    found = []
    for decode, encode, types in (
        (msgspec.json.decode, msgspec.json.encode, ociruntime),
        (light_structs.decode, light_structs.encode, LIGHT),
    ):
        try:
            value = decode(data, type=types.Spec)
        except (msgspec.MsgspecError, light_structs.MsgspecError) as err:
            found.append(str(err))
        else:
            # decoded once more, since what is a default may be written or not
            again = msgspec.json.decode(encode(value), type=ociruntime.Spec)
            found.append(msgspec.to_builtins(again))
    return found[0], found[1]


def test_a_whole_specification() -> None:
    document = {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
            "args": ["a", "ü\u2028\\\""], "env": [], "cwd": "/x", "oomScoreAdj": 0,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}],
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
            "capabilities": {"bounding": ["CAP_KILL"]},
        },
        "root": {"path": "r"}, "annotations": {"a": "b"}, "unknown": [1],
        "linux": {
            "resources": {"devices": [{"allow": False}], "rdma": {"x": {"hcaHandles": 1}},
                          "blockIO": {"throttleReadIOPSDevice":
                                      [{"major": 1, "minor": 2, "rate": 3}]}},
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
            "intelRdt": {"closID": {}},
        },
    }  # fmt: skip
    theirs, ours = _both(json.dumps(document).encode())
    assert theirs == ours and ours["process"]["ioPriority"] == {"class": "IOPRIO_CLASS_IDLE"}


@pytest.mark.parametrize(
    "document",
    [
        [], 1, {"process": 1}, {"process": {"user": {"uid": 0}}}, {"process": {"args": "x"}},
        {"process": {"args": ["x", 1]}}, {"process": {"user": {"uid": True, "gid": 0}}},
        {"process": {"user": {"uid": 1.0, "gid": 0}}}, {"linux": {"sysctl": {"a": 1}}},
        {"mounts": [{"destination": "/"}, {"type": "x"}]}, {"hooks": {"prestart": {}}},
        {"linux": {"resources": {"memory": {"limit": "1"}}}}, {"process": None, "linux": None},
    ],
)  # fmt: skip
def test_the_same_errors(document: Any) -> None:
    theirs, ours = _both(json.dumps(document).encode())
    assert ours == theirs


@pytest.mark.parametrize("data", [b"", b"{", b"{}x", b"\xff", b'{"a":}'])
def test_what_is_no_json(data: bytes) -> None:
    theirs, ours = _both(data)
    assert theirs.split(":")[0] in ("JSON is malformed", "Input data was truncated")
    assert ours.startswith("JSON is malformed")


def test_null_is_what_go_writes_for_empty() -> None:
    data = b'{"process": {"args": null, "env": ["A=1"]}, "mounts": null, "annotations": null}'
    found = light_structs.decode(data, LIGHT.Spec)
    assert found.process.args == () and found.mounts == () and found.annotations == {}


_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=4), st.floats(allow_nan=False,
              allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.sampled_from(
                                ["uid", "gid", "args", "user", "path", "type", "options",
                                 "destination", "size", "namespaces", "devices", "x"]),
                                inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["process", "root", "mounts", "linux", "hooks", "hostname",
                                        "annotations"]), _VALUES, max_size=4))  # fmt: skip
def test_wild_documents(document: dict[str, Any]) -> None:
    theirs, ours = _both(json.dumps(document).encode())
    assert ours == theirs


def test_structs_compare_replace_and_refuse() -> None:
    one = LIGHT.Namespace("pid")
    assert one == LIGHT.Namespace(type="pid", path="") and one != LIGHT.Namespace("user")
    assert light_structs.replace(one, path="/x") == LIGHT.Namespace("pid", "/x")
    with pytest.raises(TypeError):
        LIGHT.Namespace()
    with pytest.raises(TypeError):
        LIGHT.Namespace("pid", other=1)
    assert LIGHT.Linux().sysctl is not LIGHT.Linux().sysctl


def test_short_verbs_import_little() -> None:
    """What ``start`` and ``create`` take time for: none of the heavy modules."""
    code = (
        "import sys; sys.path.insert(0, {source!r}); from portside.runtime.oci import main\n"
        "{install}import portside.runtime.oci.{module}\n"
        "print(' '.join(n for n in sys.modules if n in {heavy!r}))"
    )
    source = str(importlib.import_module("portside").__path__[0]).removesuffix("/portside")
    heavy = {"msgspec._core", "typing", "re", "enum", "socket", "signal", "subprocess", "json",
             "ctypes", "contextlib", "collections"}  # fmt: skip
    for module, install, allowed in (
        ("start_delete", "", set()),
        ("lifecycle_verbs", "from portside.runtime.oci import light_structs as l; l.install();",
         {"ctypes", "contextlib", "collections"}),
    ):  # fmt: skip
        text = code.format(source=source, install=install, module=module, heavy=heavy)
        done = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True,
                              text=True, check=True)  # fmt: skip
        assert set(done.stdout.split()) <= allowed
