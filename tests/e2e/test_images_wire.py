"""What clients read off the image endpoints: streams, statuses, events, names."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker as docker_module
import pytest
from enginekit import RunningEngine
from imagekit import (
    OCI_INDEX,
    BuiltImage,
    build_image,
    build_index,
    docker_registry,
    htpasswd_line,
)
from peerkit import Docker, publish


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def app(registry: str, engine: RunningEngine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A repository of two tags, with content of its own for every test."""
    name = request.node.name.replace("_", "-").partition("[")[0]
    base: dict[str, bytes | None] = {"base": name.encode()}
    publish(registry, name, "1", build_image([base, {"a": b"1"}]))
    publish(registry, name, "2", build_image([base, {"b": b"2"}]))
    yield f"{registry}/{name}"
    for image in engine.json("GET", "/v1.51/images/json"):
        for tag in (*image["RepoTags"], *image["RepoDigests"]):
            if name in tag:
                engine.request("DELETE", f"/v1.51/images/{tag}?force=1")


def messages(answer: tuple[int, dict[str, str], bytes]) -> list[dict[str, Any]]:
    """The JSON messages of a stream, without counts."""
    status, _, body = answer
    assert status == 200, body
    lines = [json.loads(line) for line in body.splitlines()]
    return [line for line in lines if not line.get("progressDetail")]


def pull(engine: RunningEngine, query: str, **headers: str) -> list[dict[str, Any]]:
    path = f"/v1.51/images/create?{query}"
    return messages(engine.request("POST", path, headers=headers))


def events(engine: RunningEngine, since: float) -> list[tuple[str, str, str]]:
    """(action, id, name) of the images' events from a moment to now."""
    path = f"/v1.51/events?since={since:.6f}&until={time.time():.6f}"
    path += '&filters={"type":["image"]}'
    _, _, body = engine.request("GET", path)
    found = [json.loads(line) for line in body.splitlines()]
    return [
        (event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"].get("name", ""))
        for event in found
    ]


# -- pull ------------------------------------------------------------------------------------------


def test_layers_are_listed_in_their_order(engine: RunningEngine, app: str) -> None:
    first = pull(engine, f"fromImage={app}&tag=1")
    assert [m["status"] for m in first[:3]] == [
        f"Pulling from {app.partition('/')[2]}", "Pulling fs layer", "Pulling fs layer"
    ]  # fmt: skip
    second = pull(engine, f"fromImage={app}&tag=2")
    assert [m["status"] for m in second[1:3]] == ["Already exists", "Pulling fs layer"]
    assert [m["id"] for m in second[1:2]] == [m["id"] for m in first[1:2]]


def test_a_known_image_under_a_new_name_has_no_layers_to_report(
    engine: RunningEngine, app: str, registry: str
) -> None:
    base: dict[str, bytes | None] = {"twice": b"1"}
    image = build_image([base])
    other = f"{app}-other"
    for name in (app, other):
        publish(registry, name.partition("/")[2], "same", image)
    pull(engine, f"fromImage={app}&tag=same")
    said = pull(engine, f"fromImage={other}&tag=same")
    assert [m["status"].partition(":")[0] for m in said] == [
        f"Pulling from {other.partition('/')[2]}", "Digest", "Status"
    ]  # fmt: skip


def test_all_tags_are_one_pull(engine: RunningEngine, app: str) -> None:
    begun = time.time()
    said = [m["status"] for m in pull(engine, f"fromImage={app}")]
    assert [text for text in said if text.startswith("Status")] == [
        f"Status: Downloaded newer image for {app}"
    ]
    assert said[-1] == f"Status: Downloaded newer image for {app}"
    assert events(engine, begun) == [("pull", app, app)]
    assert pull(engine, f"fromImage={app}")[-1]["status"].startswith("Status: Image is up to date")


def test_the_tag_of_the_query_overrules_the_names(engine: RunningEngine, app: str) -> None:
    pull(engine, f"fromImage={app}:1&tag=2")
    found = engine.json("GET", f"/v1.51/images/{app}:2/json")
    pull(engine, f"fromImage={app}:1&tag={found['RepoDigests'][0].partition('@')[2]}")
    assert engine.request("GET", f"/v1.51/images/{app}:1/json")[0] == 404
    for query, reason in (("tag=b%20c", "invalid tag format"), ("tag=a:b", "invalid tag format")):
        status, _, body = engine.request("POST", f"/v1.51/images/create?fromImage={app}&{query}")
        assert (status, json.loads(body)["message"]) == (400, reason)
    status, _, _ = engine.request("POST", f"/v1.51/images/{app}:2/tag?repo={app}:3&tag=4")
    assert status == 201
    assert engine.request("GET", f"/v1.51/images/{app}:4/json")[0] == 200


def test_unreadable_credentials_count_as_none(engine: RunningEngine, app: str) -> None:
    pull(engine, f"fromImage={app}&tag=1", **{"X-Registry-Auth": "not base64!"})


def test_a_pull_by_digest_is_reported_by_its_whole_name(engine: RunningEngine, app: str) -> None:
    pull(engine, f"fromImage={app}&tag=1")
    name = engine.json("GET", f"/v1.51/images/{app}:1/json")["RepoDigests"][0]
    said = pull(engine, f"fromImage={name}")
    assert said[0]["id"] == name


def other_system(image: BuiltImage) -> BuiltImage:
    from imagekit import digest

    config = image.config.replace(b'"os": "linux"', b'"os": "windows"')
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": digest(config), "size": len(config)}
    blobs = {key: data for key, data in image.blobs.items() if data != image.config}
    return BuiltImage(
        json.dumps(manifest).encode(), image.manifest_type, config, blobs | {digest(config): config}
    )


def test_what_cannot_run_here_fails_in_the_stream(
    engine: RunningEngine, app: str, registry: str
) -> None:
    path = app.partition("/")[2]
    publish(registry, path, "win", other_system(build_image([{"w": b"1"}])))
    said = pull(engine, f"fromImage={app}&tag=win")
    assert said[-1]["error"] == 'image operating system "windows" cannot be used on this platform'

    arm = build_image([{"arm": b"1"}], architecture="arm64", oci=True)
    publish(registry, path, "arm", arm)
    index = build_index([(arm, {"os": "linux", "architecture": "arm64"})])
    publish(registry, path, "list", BuiltImage(index, OCI_INDEX, b"", {}))
    said = pull(engine, f"fromImage={app}&tag=list&platform=linux/s390x")
    assert said[0]["status"] == f"Pulling from {path}"
    assert said[-1]["errorDetail"]["message"].startswith(
        "no matching manifest for linux/s390x in the manifest list entries"
    )


# -- push, import, load ----------------------------------------------------------------------------


def test_pushing_all_tags_is_one_event(engine: RunningEngine, docker: Docker, app: str) -> None:
    docker("pull", "-q", "-a", app)
    begun = time.time()
    docker("push", "-q", "-a", app)
    docker("push", "-q", f"{app}:2")
    assert events(engine, begun) == [("push", app, app), ("push", f"{app}:2", app)]


def test_an_import_is_reported_as_docker_reports_it(engine: RunningEngine, docker: Docker) -> None:
    from imagekit import layer_tar

    begun = time.time()
    made = docker(
        "import", "-", "imported:1", input=layer_tar({"imported": b"1"}), text=False
    ).stdout.decode().strip()  # fmt: skip
    assert events(engine, begun) == [("tag", made, "imported:1"), ("import", made, made)]
    assert engine.json("GET", f"/v1.51/images/{made}/json")["Comment"] == "Imported from -"
    status, _, body = engine.request(
        "POST", "/v1.51/images/create?fromSrc=-&platform=windows/amd64", b""
    )
    assert (status, json.loads(body)["message"]) == (400, "operating system is not supported")
    for platform, variant in (
        ("arm64", ""),
        ("arm64/v8", "v8"),
        ("arm", ""),
        ("arm/v7", "v7"),
        ("arm/v5", "v5"),
        ("amd64/v2", "v2"),
    ):
        docker(
            "import", "--platform", f"linux/{platform}", "-", "imported:1",
            input=layer_tar({"imported": b"1"}), text=False,
        )  # fmt: skip
        found = engine.json("GET", "/v1.51/images/imported:1/json")
        assert found.get("Variant", "") == variant
    docker("rmi", "imported:1")


@pytest.mark.parametrize("data", ["abc", "x" * 5_000_000], ids=["short", "long"])
def test_a_bad_archive_is_an_error_in_the_stream(
    engine: RunningEngine, docker_py: Any, data: str
) -> None:
    said = messages(engine.request("POST", "/v1.51/images/load", data.encode()))
    assert said[-1]["error"] == said[-1]["errorDetail"]["message"]
    with pytest.raises(docker_module.errors.ImageLoadError):
        docker_py.images.load(data)


# -- going -----------------------------------------------------------------------------------------


def test_prune_removes_by_name(engine: RunningEngine, app: str) -> None:
    labelled = build_image([{"pruned": b"1"}], run={"Labels": {"prune": "me"}})
    publish(app.partition("/")[0], app.partition("/")[2], "labelled", labelled)
    pull(engine, f"fromImage={app}&tag=labelled")
    names = engine.json("GET", f"/v1.51/images/{app}:labelled/json")
    begun = time.time()
    filters = '{"dangling":["false"],"label":["prune=me"]}'
    done = engine.json("POST", f"/v1.51/images/prune?filters={filters}")
    image = labelled.id
    assert events(engine, begun) == [("untag", image, f"{app}:labelled"), ("delete", image, image),
                                     ("prune", "", "")]  # fmt: skip
    gone = [item["Untagged"] for item in done["ImagesDeleted"] if "Untagged" in item]
    assert gone == names["RepoTags"] == [f"{app}:labelled"]


def test_every_image_is_reported_once(engine: RunningEngine, docker: Docker, app: str) -> None:
    docker("pull", "-q", f"{app}:1")
    for name, parent in (("told:1", f"{app}:1"), ("told:2", "told:1")):
        container = docker("create", parent).stdout.strip()
        docker("commit", container, name)
        docker("rm", container)
    docker("tag", "told:2", f"{app}:1")  # the others lose their only names
    docker("tag", "told:2", "told:1")
    docker("rmi", f"{app}:1", "told:1")
    items = engine.json("DELETE", "/v1.51/images/told:2")
    gone = [item["Deleted"] for item in items if "Deleted" in item]
    assert len(gone) == len(set(gone)) == 3  # the image and its nameless parents


# -- listing ---------------------------------------------------------------------------------------


def test_none_is_only_said_of_what_has_no_name_at_all(engine: RunningEngine, app: str) -> None:
    pull(engine, f"fromImage={app}&tag=1")
    name = engine.json("GET", f"/v1.51/images/{app}:1/json")["RepoDigests"][0]
    engine.json("DELETE", f"/v1.51/images/{app}:1")
    pull(engine, f"fromImage={name}")
    query = 'filters={"reference":["' + name + '"]}'
    for version in ("1.42", "1.43"):
        (found,) = engine.json("GET", f"/v{version}/images/json?{query}")
        assert (found["RepoTags"], found["RepoDigests"]) == ([], [name])


def test_parameters_of_the_listing_by_version(engine: RunningEngine, app: str) -> None:
    pull(engine, f"fromImage={app}&tag=1")
    pull(engine, f"fromImage={app}&tag=2")

    def listed(version: str, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = engine.json("GET", f"/v{version}/images/json?{query}")
        return found

    assert len(listed("1.40", f"filter={app}:1")) == 1
    assert len(listed("1.41", f"filter={app}:1")) >= 2
    assert {image["SharedSize"] for image in listed("1.41", "shared-size=1")} == {-1}
    assert -1 not in {image["SharedSize"] for image in listed("1.42", "shared-size=1")}
    assert not any("Manifests" in image for image in listed("1.46", "manifests=1"))


# -- looking at registries -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            'filters={"stars":["many"]}',
            "invalid filter 'stars=many': strconv.Atoi: parsing \"many\": invalid syntax",
        ),
        ('filters={"is-official":["perhaps"]}', "invalid filter 'is-official=[perhaps]'"),
    ],
)
def test_search_filters_are_read_first(engine: RunningEngine, query: str, message: str) -> None:
    status, _, body = engine.request("GET", f"/v1.51/images/search?term=x&{query}")
    assert (status, json.loads(body)["message"]) == (400, message)


def test_there_are_no_automated_builds(engine: RunningEngine) -> None:
    query = 'filters={"is-automated":["true"]}'
    assert engine.json("GET", f"/v1.51/images/search?term=x&{query}") == []


def _auth_header(username: str, password: str) -> str:
    """The value of ``X-Registry-Auth``: base64url of JSON."""
    document = {"username": username, "password": password}
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_a_registrys_refusal_keeps_its_status(engine: RunningEngine, tmp_path: Path) -> None:
    right = _auth_header("joe", "secret")
    wrong = _auth_header("joe", "guessed")
    with docker_registry(tmp_path, htpasswd=htpasswd_line("joe", "secret")) as host:
        path = f"/v1.51/distribution/{host}/nothing:1/json"
        for header, wanted, reason in (
            (wrong, 401, "unauthorized: authentication required"),
            (right, 404, "manifest unknown: manifest unknown"),
        ):
            status, _, body = engine.request("GET", path, headers={"X-Registry-Auth": header})
            assert (status, json.loads(body)["message"]) == (wanted, reason)


def test_an_id_is_no_name_at_a_registry(engine: RunningEngine) -> None:
    status, _, body = engine.request("GET", f"/v1.51/distribution/sha256:{'0' * 64}/json")
    assert (status, json.loads(body)["message"]) == (
        400,
        "no manifest found for full image ID",
    )


def test_only_the_image_of_the_platform_is_meant(
    engine: RunningEngine, docker: Docker, app: str
) -> None:
    docker("pull", "-q", f"{app}:1")
    for verb in (("image", "inspect"), ("history",), ("rmi", "-f")):
        done = docker(*verb, "--platform", "linux/arm64", f"{app}:1", check=False)
        # the client forgives a forced removal that finds nothing
        assert done.returncode == (0 if "-f" in verb else 1)
        assert "does not provide the specified platform" in done.stderr
    docker("image", "inspect", "--platform", "linux/amd64", f"{app}:1")
    path = f"/v1.51/images/{app}:1/json?manifests=1&platform=linux/amd64"
    assert engine.request("GET", path)[0] == 400
    done = docker("rmi", "--platform", "linux/amd64", f"{app}:1", check=False)
    assert "Content will be removed from all images referencing this variant" in done.stderr
    docker("rmi", "-f", "--platform", "linux/amd64", f"{app}:1")
    assert engine.request("GET", f"/v1.51/images/{app}:1/json")[0] == 404
