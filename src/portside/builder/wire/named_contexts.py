"""``--build-context NAME=…`` of BuildKit's clients, as the frontend takes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import NamedContext
from portside.builder.solver.layout_source import LayoutSource
from portside.builder.wire import definition_decoder
from portside.builder.wire.build_job import BuildJob
from portside.model.errors import InvalidParameter
from portside.model.git_urls import is_git_url
from portside.model.image import ImageConfig
from portside.model.platform import Platform


class NamedContexts:
    """The contexts of one request. ``attrs``: all attributes; ``inputs``: definitions of the
    client's other builds."""

    def __init__(
        self, job: BuildJob, contexts: Mapping[str, str], attrs: Mapping[str, str],
        inputs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._job, self._contexts, self._attrs, self._inputs = job, contexts, attrs, inputs

    async def of(self, platform: Platform) -> dict[str, NamedContext]:
        """All of them, for a platform. InvalidParameter, NotFound."""
        return {name: await self._one(name, value, platform)
                for name, value in self._contexts.items()}  # fmt: skip

    async def _one(self, name: str, value: str, platform: Platform) -> NamedContext:
        kind, _, rest = value.partition(":")
        if kind == "docker-image":
            return NamedContext(image=rest.removeprefix("//"))
        if kind == "local":
            return NamedContext(output=llb.local(rest, label=f"[context {name}] load from client"))
        if kind == "input":
            return await self._input(rest)
        if kind == "oci-layout":
            return await self._layout(name, rest.removeprefix("//"), platform)
        if is_git_url(value) or kind in ("git", "http", "https"):
            identifier = llb.GIT + value.removeprefix("git://") if is_git_url(value) else value
            op = llb.SourceOp(identifier=identifier)
            meta = llb.VertexMeta(name=f"[context {name}] {value}")
            return NamedContext(output=llb.Vertex(op, meta=meta).output())
        raise InvalidParameter(
            f"unsupported context source {kind!r} for {name}: use a directory, a URL, a git "
            "repository, docker-image:// or oci-layout://"
        )

    async def _layout(self, name: str, place: str, platform: Platform) -> NamedContext:
        """An image of an OCI layout that the client has: STORE[:TAG]@DIGEST. A store's name, which
        buildx invents, has no colon."""
        store, at, digest = place.rpartition("@")
        if not at:
            raise InvalidParameter(f"oci-layout reference {place!r} has no digest")
        job = self._job
        assert job.work is not None
        op = llb.SourceOp(
            identifier=f"{llb.OCI_LAYOUT}{name.partition('::')[0]}@{digest}",
            attrs={"oci.store": store.partition(":")[0]},
        )
        layouts = LayoutSource(job.service.store, job.inputs.content)
        _, config = await layouts.config(op, platform, job.work.lease.ref)
        meta = llb.VertexMeta(name=f"[context {name}] OCI load from client")
        vertex = llb.Vertex(op, platform=platform, meta=meta)
        return NamedContext(output=vertex.output(), config=config)

    async def _input(self, name: str) -> NamedContext:
        """The result of another build of the same client."""
        if name not in self._inputs:
            raise InvalidParameter(f"the request has no input {name!r}")
        output = definition_decoder.decode(self._inputs[name])
        if output is not None:
            output = await self._job.with_images(output)
        return NamedContext(output=output, config=self._input_config(name))

    def _input_config(self, name: str) -> ImageConfig | None:
        text = self._attrs.get(f"input-metadata:{name}", "")
        if not text:
            return None
        try:
            data = base64.b64decode(json.loads(text)["containerimage.config"])
            return msgspec.json.decode(data, type=ImageConfig)
        except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
            raise InvalidParameter(f"the metadata of input {name!r} is malformed") from None
