"""publish: the project's files as an OCI artifact in a registry."""

from __future__ import annotations

from portside.cli import auth, references
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.compose import publication
from portside.compose.artifact_types import FILE
from portside.compose.config_output import to_yaml
from portside.compose.progress_events import DONE, ERROR, WORKING, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project
    from portside.flags.table import Options

_VERSIONS = ("", "1.0", "1.1")


@compose_verb("publish", usage="[OPTIONS] REPOSITORY[:TAG]", arguments=(1, 1),
              about="Publish the project's files as an OCI artifact", flags="""
      --app                     Also copy the images that the services use, pinned to their
                                digests
      --oci-version string      Version of the image specification: 1.0 or 1.1 (default: what the
                                registry takes)
      --resolve-image-digests   Pin images to their digests
      --with-env                Also publish variables of services and env_file
  -y, --yes                     Do not ask
""")  # fmt: skip
def publish(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    version = options.text("oci-version")
    if version not in _VERSIONS:
        raise Failed(1, f"unsupported OCI version: {version}")
    project = session.load(environment=False)
    publication.check_images(project)
    if not _is_agreed(session, project, options):
        return 0
    layers = publication.layers_of(project, options.flag("with-env"))
    _push_images(session)
    copies = options.flag("app")
    services: dict[str, Any] = {}
    descriptors: dict[str, Any] = {}
    if copies or options.flag("resolve-image-digests"):
        services, descriptors = _pinned(session, project)
        data = to_yaml({"services": services}).encode()
        layers.add(FILE, data, {"com.docker.compose.file": "image-digests.yaml"})
    name, report = arguments[0], session.board("Publishing").report
    report(Event(name, WORKING, "publishing"))
    try:
        if not session.dry_run:
            manifest = _push(session, name, layers, version)
            if copies:
                _copy_images(session, services, descriptors, name, manifest)
    except Refused:
        report(Event(name, ERROR, "publishing"))
        raise
    report(Event(name, DONE, "published"))
    return 0


def _is_agreed(session: ComposeSession, project: Project, options: Options) -> bool:
    """Does the user agree to publish what could hold secrets?"""
    if options.flag("yes"):
        return True
    if mounts := publication.bind_mounts(project):
        lines = "".join(
            f"{name}: {item.get('source')}:{item.get('target')}\n"
            for name, items in mounts.items() for item in items
        )  # fmt: skip
        if not session.confirm(
            "you are about to publish bind mounts declaration within your OCI artifact.\nonly the "
            "bind mount declarations will be added to the OCI artifact (not content)\nplease "
            "double check that you are not mounting potential user's sensitive directories or "
            f"data\n{lines}Are you ok to publish these bind mount declarations?"
        ):
            return False
    if found := publication.variables(project, options.flag("with-env")):
        lines = "".join(
            f"Service/Config  {name}\n" + "".join(f"{key}={text}\n" for key, text in values.items())
            for name, values in found.items()
        )
        return session.confirm(
            "you are about to publish environment variables within your OCI artifact.\nplease "
            f"double check that you are not leaking sensitive data\n{lines}Are you ok to publish "
            "these environment variables?"
        )
    return True


def _push_images(session: ComposeSession) -> None:
    """Built images are pushed first; images that cannot be pushed are left out."""
    from portside.cli.compose import compose_verbs

    verb = compose_verbs.load("push")
    options, arguments = verb.parse(["--ignore-push-failures"], session.called)
    verb.handler(session, options, arguments)


def _pinned(session: ComposeSession, project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    """The images of the services, each with its digest, and what registries say of them."""
    from portside.cli.compose.config_verb import pin

    services: dict[str, Any] = {
        name: {"image": item["image"]} for name, item in project.services.items()
        if item.get("image")
    }  # fmt: skip
    return services, pin(session, services)


def _copy_images(
    session: ComposeSession, services: dict[str, Any], descriptors: dict[str, Any], name: str,
    artifact: bytes,
) -> None:  # fmt: skip
    """Copy images into the repository of an artifact, with an index that refers to it.
    ``descriptors``: those that are known, by image."""
    from portside.cli.compose.config_verb import distribution

    known = {image: descriptors.get(image) or distribution(session, image)["Descriptor"]
             for image in {service["image"] for service in services.values()}}  # fmt: skip
    data = publication.index_of([known[item["image"]] for item in services.values()], artifact)
    parts = [
        {"Ref": image, "Descriptor": descriptor,
         "Auth": auth.header(session.config, image).get("X-Registry-Auth", "")}
        for image, descriptor in known.items()
    ]  # fmt: skip
    repository = references.split(references.canonical(name))[0]
    path = path_of("portside", "manifests", f"{repository}@{publication.digest(data)}", "push")
    body = {"Manifests": parts, "Raw": _base64(data), "MediaType": publication.INDEX}
    session.pool.post(path, body=body, headers=auth.header(session.config, name))


def _base64(data: bytes) -> str:
    import binascii

    return binascii.b2a_base64(data, newline=False).decode()


def _push(session: ComposeSession, name: str, layers: publication.Layers, version: str) -> bytes:
    """Push in image-spec's 1.1 form, else in that of 1.0 where a registry refuses that; the
    manifest."""
    path = path_of("portside", "artifacts", references.canonical(name), "push")
    headers = auth.header(session.config, name)
    blobs = [_base64(data) for data in publication.blobs_of(layers)]
    for form in (version,) if version else ("1.1", "1.0"):
        manifest = publication.manifest_of(layers, form)
        body = {"Manifest": _base64(manifest), "MediaType": publication.MANIFEST, "Blobs": blobs}
        try:
            session.pool.post(path, body=body, headers=headers)
            return manifest
        except Refused as err:
            if version or form == "1.0" or err.status in (401, 403, 407) or err.status >= 500:
                raise
    raise AssertionError("the last form returns or raises")


@compose_verb("bridge", usage="COMMAND", about="Convert the project for another platform "
              "(not supported)")  # fmt: skip
def bridge(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    raise Failed(1, "compose bridge is not supported: it runs transformer images of Docker Hub. "
                 "'portside compose config' prints the model that they take.")  # fmt: skip
