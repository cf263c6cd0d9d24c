"""SLSA provenance of a build, versions 1 and 0.2, as BuildKit words it
(``docs/attestations/slsa-definitions.md``). It records what was done: the sources with the digests
that were used, the parameters, and with ``mode=max`` the whole graph and the Dockerfile. Secrets
are listed by their names alone, and only with ``mode=max``."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import msgspec

from portside.builder import llb
from portside.builder.exporters.export_options import flag
from portside.builder.results import Attestation
from portside.builder.solver.git_source import git_source
from portside.model.errors import InvalidParameter
from portside.model.golang.timestamps import format_rfc3339
from portside.model.image import Descriptor
from portside.model.platform import Platform
from portside.model.reference import Reference

V02, V1 = "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"
BUILD_TYPE = {
    V02: "https://mobyproject.org/buildkit@v1",
    V1: "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
}
METADATA = "https://mobyproject.org/buildkit@v1#metadata"
_PRIVATE_ARGS = ("build-arg:", "label:")
"""Attributes that ``mode=min`` leaves out, since their values may be private."""
_OF_THIS_HOST = ("cgroup-parent", "image-resolve-mode", "platform", "cache-imports")
"""Attributes that say nothing of the result."""


@dataclass(frozen=True, kw_only=True)
class ProvenanceOptions:
    """``--provenance``, or the frontend attribute ``attest:provenance``."""

    is_max: bool = False
    version: str = V02
    builder_id: str = ""
    reproducible: bool = False
    inline_only: bool = False

    @classmethod
    def parse(cls, text: str) -> ProvenanceOptions | None:
        """Read the options' text; None when provenance is disabled. InvalidParameter."""
        fields: dict[str, str] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            fields[key.strip()] = value.strip()
        if fields.get("disabled") == "true" or text in ("false", "disabled=true"):
            return None
        reproducible = flag(fields, "reproducible", False)
        inline_only = flag(fields, "inline-only", False)
        mode = fields.get("mode", "min")
        if mode not in ("min", "max"):
            raise InvalidParameter(f'invalid mode "{mode}" of provenance: use min or max')
        version = fields.get("version", "v0.2")
        if version not in ("v0.2", "v1"):
            raise InvalidParameter(f"invalid provenance SLSA version: {version}: use v0.2 or v1")
        return cls(
            is_max=mode == "max",
            version=V1 if version == "v1" else V02,
            builder_id=fields.get("builder-id", ""),
            reproducible=reproducible,
            inline_only=inline_only,
        )


@dataclass(frozen=True, kw_only=True)
class Capture:
    """The facts about a build that its provenance is made of."""

    output: llb.Output | None
    digests: Mapping[str, str]
    """Commits and content digests of the sources, by the vertex's digest."""
    started: float
    finished: float
    """Seconds since the epoch."""
    invocation: str
    frontend: str = "dockerfile.v0"
    attrs: Mapping[str, str] = field(default_factory=dict)
    """Frontend attributes as a client spells them."""
    file: str = "Dockerfile"
    dockerfile: bytes = b""
    directories: frozenset[str] = frozenset()
    """Names of the client's directories that were read and are not in the graph."""
    layers: Mapping[str, Sequence[Descriptor]] = field(default_factory=dict)
    """By a vertex's digest: the layers that its result has in the image."""


def provenance(capture: Capture, options: ProvenanceOptions) -> Attestation:
    vertices = list(llb.walk([capture.output])) if capture.output is not None else []
    predicate = _v1(capture, options, vertices) if options.version == V1 else (
        _v02(capture, options, vertices))  # fmt: skip
    return Attestation(
        predicate_type=options.version, predicate=predicate, inline_only=options.inline_only
    )


def _v02(
    capture: Capture, options: ProvenanceOptions, vertices: list[llb.Vertex]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "builder": {"id": options.builder_id},
        "buildType": BUILD_TYPE[V02],
        "materials": [{"uri": uri, "digest": digest}
                      for uri, digest in materials(vertices, capture.digests)],
        "invocation": {
            "configSource": _config_source(capture, vertices, "entryPoint"),
            "parameters": _parameters(capture, options, vertices),
            "environment": {"platform": str(Platform.host())},
        },
    }  # fmt: skip
    if options.is_max:
        found["buildConfig"] = _graph(capture.output, vertices)
    found["metadata"] = {
        "buildInvocationID": capture.invocation,
        "buildStartedOn": format_rfc3339(int(capture.started * 10**9)),
        "buildFinishedOn": format_rfc3339(int(capture.finished * 10**9)),
        "completeness": {
            "parameters": _has_all_parameters(capture, options), "environment": True,
            "materials": not _locals(capture, vertices),
        },
        "reproducible": options.reproducible,
        METADATA: _metadata(capture, options, vertices),
    }  # fmt: skip
    if _is_hermetic(capture, vertices):
        found["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] = True
    return found


def _v1(capture: Capture, options: ProvenanceOptions, vertices: list[llb.Vertex]) -> dict[str, Any]:
    parameters = _parameters(capture, options, vertices)
    internal: dict[str, Any] = {"builderPlatform": str(Platform.host())}
    if options.is_max:
        internal["buildConfig"] = _graph(capture.output, vertices)
    metadata: dict[str, Any] = {
        "invocationId": capture.invocation,
        "startedOn": format_rfc3339(int(capture.started * 10**9)),
        "finishedOn": format_rfc3339(int(capture.finished * 10**9)),
        "buildkit_metadata": _metadata(capture, options, vertices),
        "buildkit_completeness": {
            "request": _has_all_parameters(capture, options),
            "resolvedDependencies": not _locals(capture, vertices),
        },
    }
    if _is_hermetic(capture, vertices):
        metadata["buildkit_hermetic"] = True
    if options.reproducible:
        metadata["buildkit_reproducible"] = True
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE[V1],
            "externalParameters": {
                "configSource": _config_source(capture, vertices, "path"),
                "request": parameters,
            },
            "internalParameters": internal,
            "resolvedDependencies": [
                {"uri": uri, "digest": digest}
                for uri, digest in materials(vertices, capture.digests)
            ],
        },
        "runDetails": {
            "builder": {"id": options.builder_id},
            "metadata": metadata,
        },
    }  # fmt: skip


def materials(
    vertices: list[llb.Vertex], digests: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Every source from outside with the digest of what was used, each once, by address."""
    found = {}
    for vertex in vertices:
        if isinstance(vertex.op, llb.SourceOp):
            material = _material(vertex.op, vertex, digests.get(vertex.digest, ""))
            if material is not None:
                found[material[0]] = material[1]
    return sorted(found.items())


def _material(
    op: llb.SourceOp, vertex: llb.Vertex, digest: str
) -> tuple[str, dict[str, str]] | None:
    if op.scheme in (llb.IMAGE, llb.OCI_LAYOUT):
        name, _, digest = op.name.rpartition("@")
        platform = quote(str(vertex.platform or Platform.host()), safe="")
        if op.scheme == llb.OCI_LAYOUT:
            return f"pkg:oci/{quote(name)}?platform={platform}", _digest_map(digest)
        reference = Reference.parse(name).tagged()
        path = quote(reference.familiar_name, safe="/")
        return f"pkg:docker/{path}@{quote(reference.tag)}?platform={platform}", _digest_map(digest)
    if op.scheme == llb.GIT:
        url, _ = git_source(op)
        kind = "sha1" if len(digest) == 40 else "sha256"
        return url.remote + url.fragment, {kind: digest}
    if op.scheme in (llb.HTTP, llb.HTTPS):
        return op.identifier, _digest_map(op.attrs.get("http.checksum") or digest)
    return None


def _digest_map(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value} if value else {}


def _config_source(capture: Capture, vertices: list[llb.Vertex], entry: str) -> dict[str, Any]:
    """Where the Dockerfile is from; ``entry`` is the version's name for its path."""
    found: dict[str, Any] = {}
    context = capture.attrs.get(capture.attrs.get("contextkey") or "context", "")
    if context:
        plain = redacted(context)
        uri, digest = next(
            (item for item in materials(vertices, capture.digests) if item[0] == plain),
            (plain, {}),
        )
        found["uri"] = uri
        if digest:
            found["digest"] = digest
    return {**found, entry: capture.file}


def _parameters(
    capture: Capture, options: ProvenanceOptions, vertices: list[llb.Vertex]
) -> dict[str, Any]:
    context = capture.attrs.get("contextkey") or "context"
    args = {
        key: redacted(value) if key.startswith("context:") else value
        for key, value in sorted(capture.attrs.items())
        if not key.startswith(("attest:", "vcs:"))
        and key not in (*_OF_THIS_HOST, context, "filename")
        and (options.is_max or not key.startswith(_PRIVATE_ARGS))
    }
    found: dict[str, Any] = {"frontend": capture.frontend}
    if args:
        found["args"] = args
    if names := _locals(capture, vertices):
        found["locals"] = [{"name": name} for name in names]
    if options.is_max:
        for kind, key in (("secret", "secrets"), ("ssh", "ssh")):
            if mounted := _mounted(vertices, kind):
                found[key] = mounted
    return found


def _has_all_parameters(capture: Capture, options: ProvenanceOptions) -> bool:
    """Whether no parameter was left out."""
    return options.is_max or not any(key.startswith(_PRIVATE_ARGS) for key in capture.attrs)


def redacted(url: str) -> str:
    """A URL without the password in it."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:xxxxx@", url)


def _mounted(vertices: list[llb.Vertex], kind: str) -> list[dict[str, Any]]:
    found: dict[str, bool] = {}
    for vertex in vertices:
        if not isinstance(vertex.op, llb.ExecOp):
            continue
        for mount in vertex.op.mounts:
            if mount.type == kind and mount.secret is not None:
                found[mount.secret.id] = mount.secret.optional
        if kind == "secret":
            found |= {item.id: item.optional for item in vertex.op.secret_env}
    return [{"id": name, **({"optional": True} if optional else {})}
            for name, optional in sorted(found.items())]  # fmt: skip


def _locals(capture: Capture, vertices: list[llb.Vertex]) -> list[str]:
    """Names of the client's directories that were read."""
    in_graph = {v.op.name for v in vertices
                if isinstance(v.op, llb.SourceOp) and v.op.scheme == llb.LOCAL}  # fmt: skip
    return sorted(in_graph | capture.directories)


def _is_hermetic(capture: Capture, vertices: list[llb.Vertex]) -> bool:
    """Whether nothing could come in but the materials."""
    runs = [vertex.op for vertex in vertices if isinstance(vertex.op, llb.ExecOp)]
    return not _locals(capture, vertices) and all(op.network == "none" for op in runs)


def _names(vertices: list[llb.Vertex]) -> dict[int, str]:
    return {id(vertex): f"step{number}" for number, vertex in enumerate(vertices)}


def _graph(output: llb.Output | None, vertices: list[llb.Vertex]) -> dict[str, Any]:
    """Every vertex with its operation and inputs, last the result; digests lead to them."""
    from portside.builder.wire.definition_json import operation_json, result_digest

    names = _names(vertices)

    def references(inputs: Sequence[llb.Output]) -> list[str]:
        return [f"{names[id(item.vertex)]}:{item.index}" for item in inputs]

    steps: list[dict[str, Any]] = []
    for vertex in vertices:
        shown = vertex
        if isinstance(vertex.op, llb.ExecOp):  # an address of a proxy may hold a password
            meta = msgspec.structs.replace(vertex.op.meta, proxy={})
            shown = replace(vertex, op=msgspec.structs.replace(vertex.op, meta=meta))
        step: dict[str, Any] = {"id": names[id(vertex)], "op": operation_json(shown)}
        if vertex.inputs:
            step["inputs"] = references(vertex.inputs)
        steps.append(step)
    mapping = {vertex.digest: names[id(vertex)] for vertex in vertices}
    if output is not None:
        last = f"step{len(vertices)}"
        steps.append({"id": last, "op": {"Op": {}}, "inputs": references([output])})
        mapping[result_digest(output)] = last
    return {"llbDefinition": steps, "digestMapping": dict(sorted(mapping.items()))}


def _metadata(
    capture: Capture, options: ProvenanceOptions, vertices: list[llb.Vertex]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    vcs = {key[4:]: redacted(value) for key, value in sorted(capture.attrs.items())
           if key.startswith("vcs:") and value}  # fmt: skip
    if vcs:
        found["vcs"] = vcs
    if not options.is_max:
        return found
    names = _names(vertices)
    locations: dict[str, Any] = {}
    for vertex in vertices:
        where = vertex.meta.location
        span = {"start": {"line": where[0]}, "end": {"line": where[1]}} if where else None
        location = {"locations": [{"ranges": [span]}]} if span else {}
        locations[names[id(vertex)]] = location
    data = base64.b64encode(capture.dockerfile).decode()
    info: dict[str, Any] = {"filename": capture.file, "language": "Dockerfile", "data": data}
    if "dockerfile" in capture.directories:
        source = llb.local("dockerfile")
        info = {**info, **_graph(source, [source.vertex])}
    found["source"] = {"locations": locations, "infos": [info]}
    layers = {
        f"{names[id(vertex)]}:0": [[_layer(part) for part in capture.layers[vertex.digest]]]
        for vertex in vertices if capture.layers.get(vertex.digest)
    }  # fmt: skip
    if layers:
        found["layers"] = layers
    return found


def _layer(part: Descriptor) -> dict[str, Any]:
    return {"mediaType": part.media_type, "digest": part.digest, "size": part.size}
