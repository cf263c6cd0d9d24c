"""Manifests, indexes and configurations as documents; what the API says of images."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.golang.sizes import human_size
from portside.model.image import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    RunConfig,
    decode,
    encode,
    is_index,
)
from portside.model.imageapi import GraphDriver, ImageInspect, ImageSummary, InspectRootFS
from portside.model.progress import Progress, bar
from portside.model.registryauth import AuthConfig

D = "sha256:" + "0" * 64


def test_manifest_reads_and_writes_the_wire_names() -> None:
    manifest = Manifest(
        schema_version=2,
        media_type=DOCKER_MANIFEST,
        config=Descriptor(media_type="c", digest=D, size=3),
        layers=(Descriptor(media_type="l", digest=str(Digest(D)), size=0),),
    )
    document = json.loads(encode(manifest))
    assert document == {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "c", "digest": D, "size": 3},
        "layers": [{"mediaType": "l", "digest": D, "size": 0}],
    }
    assert decode(encode(manifest), Manifest, "manifest") == manifest


def test_a_document_cannot_be_both_image_and_index() -> None:
    both = {"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}
    with pytest.raises(InvalidParameter, match="both"):
        is_index("", json.dumps(both).encode())
    with pytest.raises(InvalidParameter, match="does not match"):
        is_index(DOCKER_MANIFEST, json.dumps({"mediaType": OCI_INDEX, "manifests": []}).encode())


@given(st.binary(max_size=200))
def test_garbage_is_refused_clearly(data: bytes) -> None:
    for kind in (Manifest, Index, ImageConfig):
        try:
            decode(data, kind, "document")
        except InvalidParameter as err:
            assert "document is malformed" in str(err)


def test_deep_nesting_does_not_kill_the_reader() -> None:
    with pytest.raises(InvalidParameter):
        decode(b"[" * 100_000, Manifest, "manifest")


def test_config_with_nulls_as_old_images_have_them() -> None:
    data = b'{"config":{"Env":null,"Cmd":null,"Volumes":null,"Labels":null},"history":null,'
    data += b'"os.features":null,"rootfs":{"type":"layers","diff_ids":[]},"unknown":1}'
    config = decode(data, ImageConfig, "config")
    assert config.run.env is None and config.platform.os == "linux"


def test_inspect_by_version() -> None:
    inspect = ImageInspect(
        id=D,
        config=RunConfig(cmd=("sh",)),
        graph_driver=GraphDriver(None, "vfs"),
        root_fs=InspectRootFS("layers", (D,)),
        size=7,
    )
    new, old = inspect.wire((1, 51)), inspect.wire((1, 43))
    assert inspect.wire((1, 52))["Config"] == {"Cmd": ("sh",)}, "from 1.52 without empty keys"
    assert new["Config"].pop("Cmd") == ("sh",)
    empty = ["Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"]
    assert sorted(new["Config"]) == empty and not any(new["Config"].values())
    assert "Created" not in new and "VirtualSize" not in new
    assert old["Config"]["Hostname"] == "" and old["VirtualSize"] == 7
    assert old["Created"] == "0001-01-01T00:00:00Z" and "ContainerConfig" not in old
    assert new["Metadata"] == {"LastTagTime": "0001-01-01T00:00:00Z"}


def test_summary_of_an_untagged_image_by_version() -> None:
    summary = ImageSummary(id=D)
    assert summary.wire((1, 43))["RepoTags"] == ()
    assert summary.wire((1, 42))["RepoTags"] == ["<none>:<none>"]
    assert summary.wire((1, 42))["RepoDigests"] == ["<none>@<none>"]


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        (
            Progress(status="Pulling from x", id="latest"),
            {"status": "Pulling from x", "id": "latest"},
        ),
        (
            Progress(status="Waiting", id="abc", is_item=True),
            {"status": "Waiting", "progressDetail": {}, "id": "abc"},
        ),
        (Progress(stream="Loaded\n"), {"stream": "Loaded\n"}),
        (Progress(aux={"Tag": "1"}), {"progressDetail": {}, "aux": {"Tag": "1"}}),
    ],
)
def test_progress_messages(progress: Progress, message: dict[str, object]) -> None:
    assert progress.message() == message


def test_progress_bar_is_dockers() -> None:
    assert (
        human_size(999) == "999B"
        and human_size(1_234_567) == "1.235MB"
        and human_size(1000) == "1kB"
    )
    assert bar(50, 100).startswith("[" + "=" * 25 + ">" + " " * 25 + "]")
    assert bar(100, 100).startswith("[" + "=" * 50 + ">]")
    assert bar(5, 0) == "      5B"


def test_auth_header_in_every_spelling() -> None:
    auth = AuthConfig(username="joe", password="s:ecret", serveraddress="r.example")
    header = base64.urlsafe_b64encode(msgspec.json.encode(auth)).decode()
    assert AuthConfig.from_header(header) == AuthConfig.from_header(header.rstrip("=")) == auth
    assert AuthConfig.from_header("").is_anonymous
    assert AuthConfig(auth="am9lOnM6ZWNyZXQ=").complete().password == "s:ecret"
    assert "ecret" not in repr(auth)


@given(st.text(max_size=60))
def test_bad_auth_headers_are_refused(text: str) -> None:
    try:
        AuthConfig.from_header(text)
    except InvalidParameter:
        pass


def test_structs_stay_encodable() -> None:
    assert msgspec.json.decode(msgspec.json.encode(ImageSummary(id=D)))["Id"] == D
