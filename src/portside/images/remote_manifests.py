"""Looking at what a registry has, and changing its manifest lists, without pulling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from portside.images.platform_select import pick
from portside.model.errors import (
    Forbidden,
    InvalidParameter,
    NotFound,
    PortsideError,
    Unauthorized,
)
from portside.model.image import (
    DOCKER_LIST,
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    encode,
)
from portside.model.imageapi import DistributionInspect, ListPart, RemoteManifest
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.registry.client.client import RegistryClient
from portside.registry.client.connection import Connection
from portside.registry.client.errors import RegistryError
from portside.registry.client.repository import (
    FetchedManifest,
    Repository,
    pull_scope,
    push_scope,
)
from portside.registry.client.upload import upload

IN_TOTO = "application/vnd.in-toto+json"
MAX_STATEMENTS = 32
"""Statements of one attestation manifest that are read."""


async def distribution_inspect(repository: Repository, reference: Reference) -> DistributionInspect:
    """Descriptor and platforms behind a reference."""
    fetched = await repository.get_manifest(reference.target)
    return DistributionInspect(fetched.descriptor, await platforms(repository, fetched))


@contextmanager
def with_its_status() -> Iterator[None]:
    """Convert a registry's refusal to an error with the same status and the registry's text."""
    try:
        yield
    except RegistryError as err:
        kind = _KINDS.get(err.code)
        if kind is None:
            raise
        raise kind(str(err)) from err


_KINDS: dict[str, type[PortsideError]] = {
    "UNAUTHORIZED": Unauthorized,
    "DENIED": Forbidden,
    "MANIFEST_UNKNOWN": NotFound,
    "NAME_UNKNOWN": NotFound,
}


async def platforms(repository: Repository, fetched: FetchedManifest) -> tuple[Platform, ...]:
    """Platforms of an index's entries, or of the one image."""
    if fetched.is_index:
        index = decode(fetched.data, Index, f"index {fetched.digest}")
        return tuple(entry.platform for entry in index.manifests if entry.platform)
    platform = await platform_of(repository, fetched)
    return (platform,) if platform else ()


async def platform_of(repository: Repository, fetched: FetchedManifest) -> Platform | None:
    """What the configuration of one image says; None for an artifact."""
    data = await config_of(repository, fetched)
    if not data:
        return None
    return decode(data, ImageConfig, f"configuration of {fetched.digest}").platform


async def config_of(repository: Repository, fetched: FetchedManifest) -> bytes:
    """The configuration of one image; empty for an artifact."""
    manifest = decode(fetched.data, Manifest, f"manifest {fetched.digest}")
    if not manifest.is_image:
        return b""
    return await repository.get_blob(manifest.config.digest, MAX_CONFIG)


async def resolve(
    repository: Repository, target: str, platform: Platform | None = None
) -> FetchedManifest:
    """A manifest as it is; with ``platform``, the entry of an index that fits it."""
    fetched = await repository.get_manifest(target)
    if platform is None or not fetched.is_index:
        return fetched
    index = decode(fetched.data, Index, f"index {fetched.digest}")
    return await repository.get_manifest(pick(index, platform).digest)


async def entry_for(repository: Repository, target: str) -> Descriptor:
    """An image's entry for a manifest list: its descriptor with its platform."""
    fetched = await repository.get_manifest(target)
    if fetched.is_index:
        raise InvalidParameter(f"{repository.path}:{target} is a manifest list")
    platform = await platform_of(repository, fetched)
    descriptor = fetched.descriptor
    return Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        platform=platform.normalized() if platform else None,
    )


def annotate(
    entry: Descriptor,
    *,
    os: str = "",
    architecture: str = "",
    variant: str = "",
    os_version: str = "",
    os_features: tuple[str, ...] = (),
) -> Descriptor:
    """An entry with parts of its platform replaced (``docker manifest annotate``)."""
    import msgspec

    old = entry.platform or Platform()
    platform = Platform(
        architecture=architecture or old.architecture,
        os=os or old.os,
        os_version=os_version or old.os_version,
        os_features=os_features or old.os_features,
        variant=variant or old.variant,
    )
    return msgspec.structs.replace(entry, platform=platform)


def make_list(
    entries: list[Descriptor], annotations: dict[str, str] | None = None
) -> tuple[str, bytes]:
    """(media type, bytes) of a manifest list: an OCI index as soon as one entry is OCI."""
    if not entries:
        raise InvalidParameter("a manifest list needs at least one manifest")
    is_oci = annotations or any(entry.media_type == OCI_MANIFEST for entry in entries)
    media_type = OCI_INDEX if is_oci else DOCKER_LIST
    index = Index(
        schema_version=2,
        media_type=media_type,
        manifests=tuple(entries),
        annotations=annotations or {},
    )
    return media_type, encode(index)


async def push_list(
    repository: Repository, tag: str, entries: list[Descriptor], data: bytes, media_type: str
) -> str:
    """Push a manifest list; every manifest it names must be in the repository. Its digest."""
    for entry in entries:
        await repository.head_manifest(entry.digest)
    return str(await repository.put_manifest(tag, media_type, data))


async def remote_manifest(
    repository: Repository, reference: Reference, *, statements: bool = False
) -> RemoteManifest:
    """The bytes behind a reference, and for one image its configuration and platform; with
    ``statements`` what an attestation manifest says."""
    import msgspec

    fetched = await repository.get_manifest(reference.target)
    descriptor = fetched.descriptor
    config = b"" if fetched.is_index else await config_of(repository, fetched)
    if config:
        platform = decode(config, ImageConfig, f"configuration of {fetched.digest}").platform
        descriptor = msgspec.structs.replace(descriptor, platform=platform.normalized())
    said = await _statements(repository, fetched) if statements else ()
    return RemoteManifest(descriptor, fetched.data, config, said)


async def _statements(repository: Repository, fetched: FetchedManifest) -> tuple[bytes, ...]:
    if fetched.is_index:
        return ()
    layers = decode(fetched.data, Manifest, f"manifest {fetched.digest}").layers
    parts = [part for part in layers if part.media_type == IN_TOTO][:MAX_STATEMENTS]
    return tuple([await repository.get_blob(part.digest, MAX_CONFIG) for part in parts])


async def push_parts(
    registries: RegistryClient,
    target: Reference,
    parts: Sequence[ListPart],
    auth: AuthConfig | None,
    document: tuple[str, bytes] | None = None,
) -> str:
    """Push a list; its manifests are copied from other repositories of the registry.
    ``document``: media type and bytes of what is pushed in place of a list made here; it may
    name manifests of other registries. A target with a digest gets no tag."""
    sources = [Reference.parse(part.ref) for part in parts]
    for source in sources if document is None else ():
        if source.domain != target.domain:
            raise InvalidParameter(
                "cannot use source images from a different registry than the target image: "
                f"{source.domain} != {target.domain}"
            )
    entries = [part.descriptor for part in parts]
    media_type, data = document or make_list(entries)
    others = {source.path for source in sources if source.domain == target.domain} - {target.path}

    async def push(connection: Connection) -> str:
        repository = Repository(connection, target.path)
        for source, part, entry in zip(sources, parts, entries, strict=True):
            if source.domain != target.domain:
                known = AuthConfig.from_header(part.auth)
                copy = partial(copy_image, target=repository, digest=entry.digest)
                await registries.on_repository(source.domain, source.path, copy, auth=known)
            elif source.path != target.path:
                await copy_image(Repository(connection, source.path), repository, entry.digest)
        return await push_list(repository, target.target, entries, data, media_type)

    scopes = (push_scope(target.path), *map(pull_scope, sorted(others)))
    return await registries.on_registry(target.domain, push, auth=auth, push=True, scopes=scopes)


async def copy_image(source: Repository, target: Repository, digest: str) -> None:
    """Bring a manifest and what it names from one repository into another."""
    fetched = await source.get_manifest(digest)
    if fetched.is_index:
        for entry in decode(fetched.data, Index, f"index {digest}").manifests:
            await copy_image(source, target, entry.digest)
    else:
        manifest = decode(fetched.data, Manifest, f"manifest {digest}")
        for part in (manifest.config, *manifest.layers):
            await _copy_blob(source, target, part)
    await target.put_manifest(str(fetched.digest), fetched.media_type, fetched.data)


async def _copy_blob(source: Repository, target: Repository, part: Descriptor) -> None:
    from collections.abc import AsyncIterator

    async def bytes_from(offset: int) -> AsyncIterator[bytes]:
        async with source.open_blob(part.digest, offset) as (start, chunks):
            skip = offset - start
            async for chunk in chunks:
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:]
                skip = 0

    same = source.connection.endpoint.host == target.connection.endpoint.host
    neighbours = (source.path,) if same else ()
    await upload(target, part.digest, part.size, bytes_from, neighbours=neighbours)


__all__ = [
    "MAX_MANIFEST",
    "annotate",
    "copy_image",
    "distribution_inspect",
    "entry_for",
    "make_list",
    "platforms",
    "push_list",
    "push_parts",
    "remote_manifest",
    "resolve",
]
