"""Images: every way one comes, goes and is kept. The face the rest of the engine uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from portside.images.image_store import (
    Catalogue,
    check_platform,
    lacks_platform,
    require_name,
)
from portside.images.singleflight import Joint
from portside.model.errors import NotFound, PortsideError
from portside.model.events import Publisher
from portside.model.filters import Filters
from portside.model.image import Descriptor, Image, RunConfig
from portside.model.imageapi import (
    AttestationStatement,
    DeleteItem,
    DistributionInspect,
    HistoryItem,
    ImageInspect,
    ImageSummary,
    ListPart,
    PruneReport,
    RemoteManifest,
    SearchResult,
)
from portside.model.platform import Platform
from portside.model.progress import Progress, Report, quiet
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig, AuthResult
from portside.registry.client.client import RegistryClient
from portside.registry.client.errors import RegistryError
from portside.registry.client.options import RegistryOptions
from portside.registry.client.repository import FetchedManifest, Repository
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.images.pull import Pulled
    from portside.store.db import Lease
    from portside.store.store import Store

T = TypeVar("T")

IsRunning = Callable[[str], bool]
"""Whether a container ID is running (the engine wires it to the containers)."""


class ImageService:
    """All image operations; safe for concurrent use on one event loop."""

    def __init__(
        self,
        store: Store,
        options: RegistryOptions | None = None,
        publish: Publisher | None = None,
        is_running: IsRunning | None = None,
    ) -> None:
        self.store = store
        self.catalogue = Catalogue(store)
        self.registries = RegistryClient(options)
        self._publish: Publisher = _nobody if publish is None else publish
        self.is_running: IsRunning = is_running or (lambda _: False)
        self._downloads = asyncio.Semaphore(self.registries.options.max_concurrent_downloads)
        self._uploads = asyncio.Semaphore(self.registries.options.max_concurrent_uploads)
        self._pulls: Joint[Pulled] = Joint()
        self._retired: list[RegistryClient] = []

    def publish(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Publish an image's event; the image's labels are among its attributes, as in Docker."""
        try:
            record = self.catalogue.record(self.catalogue.resolve(id))
            config = self.catalogue.main_config(record)
            labels = dict(config.run.labels or {}) if config else {}
        except PortsideError:
            labels = {}  # it is gone, or the event is of no one image
        self._publish(type, action, id, {**labels, **(attributes or {})})

    @asynccontextmanager
    async def _tidy(self) -> AsyncIterator[None]:
        """Blobs of failed work that nothing needs are removed at once; a lease keeps blobs for the
        next try."""
        try:
            yield
        except PortsideError:
            await self.store.collect()
            raise

    # life of the service
    async def start(self) -> None:
        """Undo what a killed engine left half done. Call once before anything else.

        Everything that is not yet an image belongs to a lease of the store, which the store
        itself ends; what remains is an image whose documents were lost (power cut).
        """
        from portside.images.image_repair import drop_broken, migrate

        migrate(self.catalogue)
        drop_broken(self.catalogue)

    async def close(self) -> None:
        """Stop transfers and close connections."""
        await self._pulls.close()
        for client in (*self._retired, self.registries):
            await client.close()

    def reconfigure(self, options: RegistryOptions) -> None:
        """Use other registry options from now on (SIGHUP); running transfers keep theirs."""
        self._retired.append(self.registries)
        self.registries = RegistryClient(options)
        self._downloads = asyncio.Semaphore(options.max_concurrent_downloads)
        self._uploads = asyncio.Semaphore(options.max_concurrent_uploads)

    # coming
    async def pull(
        self,
        ref: str,
        platform: Platform | None = None,
        auth: AuthConfig | None = None,
        progress: Report = quiet,
        *,
        all_tags: bool = False,
    ) -> Image | None:
        """Pull ``ref`` (no tag and no digest: ``latest``); with ``all_tags`` every tag (None).

        Cancelling the task stops the transfer and keeps the partial blobs.
        Raises NotFound, Unauthorized, Unavailable, SystemFailure in Docker's words.
        """
        from portside.images import embedded
        from portside.images.pull import outcome

        reference = Reference.parse(ref)
        image: Image | None = None
        if all_tags and reference.is_name_only:
            is_new = await self._pull_all(reference, platform, auth, progress)
            progress(outcome(reference, is_new))
        elif embedded.is_embedded(reference := reference.tagged()):
            identifier = await embedded.register(self.catalogue, reference, progress)
            image = self.catalogue.get(identifier)
        else:
            pulled = await self._pull_one(reference, platform, auth, progress)
            progress(outcome(reference, pulled.is_new))
            image = self._chosen(pulled.id, reference.familiar, platform)
        if image is not None:
            self._warn(image, reference, platform, progress)
        self.publish("image", "pull", reference.familiar, {"name": reference.familiar_name})
        return image

    @staticmethod
    def _warn(
        image: Image, reference: Reference, platform: Platform | None, progress: Report
    ) -> None:
        try:
            check_platform(image, reference.familiar, platform)
        except PortsideError as err:
            progress(Progress(status=f"WARNING: {err}"))

    async def _pull_all(
        self,
        reference: Reference,
        platform: Platform | None,
        auth: AuthConfig | None,
        progress: Report,
    ) -> bool:
        """Every tag of a repository; returns whether one of them was new."""
        tags = await self._at(reference, lambda repository: repository.tags(), auth)
        pulled = [
            await self._pull_one(reference.with_tag(tag), platform, auth, progress) for tag in tags
        ]
        return any(one.is_new for one in pulled)

    async def _pull_one(
        self,
        reference: Reference,
        platform: Platform | None,
        auth: AuthConfig | None,
        progress: Report,
    ) -> Pulled:
        key = (str(reference), str(platform or ""), auth)
        return await self._pulls.run(
            key, progress, lambda report: self._pull(reference, platform, auth, report)
        )

    async def _pull(
        self,
        reference: Reference,
        platform: Platform | None,
        auth: AuthConfig | None,
        report: Report,
    ) -> Pulled:
        from portside.images.pull import Puller

        puller = Puller(self.catalogue, self._downloads, report)
        async with self._tidy():
            return await self._at(
                reference, lambda repository: puller.pull(repository, reference, platform), auth
            )

    async def _at(
        self,
        reference: Reference,
        operation: Callable[[Repository], Awaitable[T]],
        auth: AuthConfig | None,
    ) -> T:
        """Run a reading operation on a reference's repository, refusals in Docker's words."""
        from portside.images.pull import in_words

        try:
            return await self.registries.on_repository(
                reference.domain, reference.path, operation, auth=auth
            )
        except RegistryError as err:
            raise in_words(err, reference) from err

    async def load(
        self,
        archive: AsyncIterable[bytes],
        progress: Report = quiet,
        *,
        platforms: Sequence[Platform] = (),
    ) -> Sequence[str]:
        """Load a docker archive or OCI layout (plain, gzip, xz, zstd, bzip2); of ``platforms``
        only, if any are given.

        Returns what was loaded: references and IDs.
        """
        from portside.images.load import Loader

        async with self._tidy():
            loaded = await Loader(self.catalogue, self.publish, progress).load(archive, platforms)
        return [item.name for item in loaded]

    async def import_(
        self,
        archive: AsyncIterable[bytes] | str,
        ref: str = "",
        *,
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
        progress: Report = quiet,
    ) -> str:
        """Make an image of one layer from a root file system's tar, or from a URL. Its ID."""
        from portside.images.import_image import import_image

        name = require_name(ref) if ref else None
        async with self._tidy():
            return await import_image(
                self.catalogue,
                self.registries,
                archive,
                name=name,
                message=message,
                changes=changes,
                platform=platform,
                report=progress,
                publish=self.publish,
            )

    # going
    async def push(
        self,
        ref: str,
        auth: AuthConfig | None = None,
        progress: Report = quiet,
        *,
        all_tags: bool = False,
        platform: Platform | None = None,
    ) -> None:
        """Push ``ref`` (no tag: ``latest``), or with ``all_tags`` every tag of the name."""
        from portside.images.push import Pusher

        pusher = Pusher(self.catalogue, self.registries, self._uploads, progress)
        pushed = await pusher.push(Reference.parse(ref), auth, all_tags=all_tags, platform=platform)
        self.publish("image", "push", pushed.familiar, {"name": pushed.familiar_name})

    async def push_image(
        self,
        identifier: str,
        name: str,
        auth: AuthConfig | None = None,
        progress: Report = quiet,
        *,
        by_digest: bool = False,
    ) -> None:
        """Push the image with this ID as ``name``, which need not be one of its local names; with
        ``by_digest`` no tag leads to it at the registry."""
        from portside.images.push import Pusher

        reference = require_name(name)
        pusher = Pusher(self.catalogue, self.registries, self._uploads, progress)
        await pusher.push_image(reference, identifier, auth, by_digest=by_digest)
        self.publish("image", "push", reference.familiar, {"name": reference.familiar_name})

    def save(
        self, names: Sequence[str], *, platforms: Sequence[Platform] = ()
    ) -> AsyncIterator[bytes]:
        """A tar that is both a docker archive and an OCI layout; of ``platforms`` only, if any
        are given: one as its manifest alone, several in the image's index.

        Unknown names raise NotFound at the call, before the first byte.
        """
        from portside.images.save import Saver

        saver = Saver(self.catalogue, names, platforms)
        for identifier in saver.ids:
            self.publish("image", "save", identifier, {"name": identifier})
        return saver.stream()

    # looking
    def get(self, name_or_id: str, platform: Platform | None = None) -> Image:
        """An image by reference, ID or unique prefix of an ID. NotFound ("No such image: X")."""
        identifier, asked = self.catalogue.locate(name_or_id)
        if asked and platform is None:
            return self.catalogue.get(
                identifier, self.catalogue.record(identifier).with_digest(asked)
            )
        return self._chosen(identifier, name_or_id, platform)

    def _chosen(self, identifier: str, name: str, platform: Platform | None) -> Image:
        record = self.catalogue.record(identifier)
        variant = record.variant(platform)
        if variant is None and platform is not None and record.variants:
            raise lacks_platform(name, platform)
        return self.catalogue.get(identifier, variant)

    async def unpack(self, image: Image) -> Image:
        """Unpack the layers of one platform (a load unpacks only what this machine
        runs); returns the updated image."""
        from portside.images.image_content import unpack_variant

        record = self.catalogue.record(image.id)
        variant = record.with_digest(image.manifest.digest) if image.manifest else None
        if variant is None:
            raise NotFound(f"No such image: {image.id}")
        with self.store.lease(f"unpack {image.id}") as lease:
            variant = await unpack_variant(self.catalogue, lease, variant)
            changed = msgspec.structs.replace(
                record, variants=(variant,), attestations=record.attestations
            )
            self.catalogue.add(image.id, changed, ())
        return self.catalogue.get(image.id, variant)

    async def add(
        self,
        target: Descriptor,
        names: Sequence[str] = (),
        *,
        lease: Lease,
        parent: str = "",
    ) -> str:
        """Make an image of content that is in the store already: what a build ends with.

        ``target`` describes a manifest, or an index of manifests with their attestations. Every
        blob of it (index, manifests, configurations, layers) is in ``store.blobs`` and owned by
        ``lease``; of an index, entries whose content is not there are left out. Layers are
        unpacked where the store does not have them yet (``store.layers``, by chain ID): for
        an index only this machine's platforms. ``names`` are tags (no tag: ``latest``); an image
        that had one keeps its others. Record, names and ownership are one transaction, so that
        the lease can end as soon as this returns. Returns the ID: the target's digest.

        Raises NotFound when content is missing, InvalidParameter for malformed documents, bad
        names and images of another operating system.
        """
        from portside.images.image_content import record_image

        references = [require_name(name) for name in names]
        identifier = await record_image(
            self.catalogue, lease, target, names=references, parent=parent
        )
        await self.store.settle()
        for reference in references:
            self.publish("image", "tag", identifier, {"name": reference.familiar})
        return identifier

    async def list(
        self,
        *,
        all: bool = False,
        filters: Filters | None = None,
        shared_size: bool = False,
        manifests: bool = False,
        identity: bool = False,
    ) -> Sequence[ImageSummary]:
        """Newest first. ``all`` shows intermediate images too."""
        from portside.images.image_list import Lister, ListOptions

        options = ListOptions(all, shared_size, manifests, identity)
        return Lister(self.catalogue, filters or {}, options).summaries()

    async def inspect(
        self, name_or_id: str, *, manifests: bool = False, platform: Platform | None = None
    ) -> ImageInspect:
        """Raises NotFound, also when it is the image of another platform."""
        from portside.images.image_list import inspect

        identifier = self._resolve(name_or_id, platform)
        return inspect(self.catalogue, identifier, platform, manifests=manifests)

    async def attestations(
        self,
        name_or_id: str,
        platform: Platform | None = None,
        *,
        types: Sequence[str] = (),
        statements: bool = False,
    ) -> Sequence[AttestationStatement]:
        """In-toto statements about an image of ``platform`` (default: the host's), only of these
        predicate types if any are given, with their text if ``statements``. Raises NotFound."""
        from portside.images.image_attestations import find_statements

        identifier = self.catalogue.resolve(name_or_id)
        return find_statements(
            self.catalogue, identifier, name_or_id, platform, frozenset(types), statements
        )

    async def history(
        self, name_or_id: str, platform: Platform | None = None
    ) -> Sequence[HistoryItem]:
        """Newest first. Raises NotFound, also when it is the image of another platform."""
        from portside.images.image_list import history

        return history(self.catalogue, self._resolve(name_or_id, platform), platform)

    def _resolve(self, name_or_id: str, platform: Platform | None) -> str:
        """The ID; NotFound also when the image is not here for ``platform``."""
        identifier = self.catalogue.resolve(name_or_id)
        if platform is not None and self.catalogue.record(identifier).variant(platform) is None:
            raise lacks_platform(name_or_id, platform)
        return identifier

    # changing
    def tag(self, source: str, target: str) -> None:
        """Name an image (no tag: ``latest``). Raises NotFound, InvalidParameter."""
        identifier = self.catalogue.resolve(source)
        name = require_name(target)
        self.catalogue.assign(name, identifier)
        self.publish("image", "tag", identifier, {"name": name.familiar})

    async def remove(
        self,
        name: str,
        *,
        force: bool = False,
        prune: bool = True,
        platforms: Sequence[Platform] = (),
    ) -> Sequence[DeleteItem]:
        """Untag or delete by Docker's rules. Raises NotFound, Conflict.

        With ``platforms`` only these are deleted, and only by ``force``; the name stays.
        """
        from portside.images.removal import Remover

        remover = Remover(self.catalogue, self.is_running, self.publish)
        return await remover.remove(name, force=force, prune=prune, platforms=platforms)

    async def prune(self, filters: Filters | None = None) -> PruneReport:
        """Delete dangling images (with ``dangling=false``: all that no container uses)."""
        from portside.images.removal import prune

        return await prune(self.catalogue, filters or {}, self.is_running, self.publish)

    async def commit(
        self,
        container_id: str,
        parent_image: str,
        *,
        ref: str = "",
        author: str = "",
        comment: str = "",
        config: RunConfig | None = None,
        changes: Sequence[str] = (),
    ) -> str:
        """Make an image of a container's changes above ``parent_image`` (an ID); its ID.

        ``config`` is the container's configuration with the request's fields put over it;
        None keeps the parent's. ``changes`` are Dockerfile instructions. The container's
        writable layer must not be written to meanwhile (pause it).
        """
        from portside.images.commit import Commit, commit_container

        name = require_name(ref) if ref else None
        request = Commit(container_id, parent_image, name, author, comment, config, changes)
        return await commit_container(self.catalogue, request, self.publish)

    # use by containers
    def acquire(self, image: Image, container_id: str) -> None:
        """Record that a container uses one platform of an image: it is deleted only by force
        before ``release``, and the container keeps its layers even then.

        Raises NotFound when the image went away meanwhile.
        """
        with self.catalogue.changes():
            self.catalogue.record(image.id)
            held = [Ref.image(image.id)]
            if image.manifest is not None:
                held.append(Ref.blob(image.manifest.digest))
            if image.chain is not None:
                held.append(Ref.layer(image.chain))
            self.store.db.refs.add(Ref.container(container_id), *held)

    def users(self, image_id: str) -> Sequence[str]:
        """IDs of the containers that use an image."""
        users = self.store.db.refs.users(Ref.image(image_id), "container")
        return [user.id for user in users]

    # registries
    async def search(
        self,
        term: str,
        *,
        limit: int = 25,
        filters: Filters | None = None,
        auth: AuthConfig | None = None,
    ) -> Sequence[SearchResult]:
        """Docker Hub's search (v1), or the catalogue of a registry that has none."""
        from portside.images.search import search

        return await search(self.registries, term, limit, filters or {}, auth)

    async def login(self, auth: AuthConfig) -> AuthResult:
        """Check credentials. Raises Unauthorized."""
        return await self.registries.login(auth)

    async def distribution_inspect(
        self, ref: str, auth: AuthConfig | None = None
    ) -> DistributionInspect:
        """Look up a reference at its registry, without pulling it."""
        from portside.images.remote_manifests import distribution_inspect, with_its_status

        reference = Reference.parse(ref)
        with with_its_status():
            return await self.registries.on_repository(
                reference.domain,
                reference.path,
                lambda repository: distribution_inspect(repository, reference),
                auth=auth,
            )

    async def remote_manifest(
        self, ref: str, auth: AuthConfig | None = None, *, statements: bool = False
    ) -> RemoteManifest:
        """A manifest or manifest list as a registry has it, byte by byte; of an attestation
        manifest also the ``statements``."""
        from portside.images.remote_manifests import remote_manifest

        reference = Reference.parse(ref)
        return await self._at(
            reference,
            lambda repository: remote_manifest(repository, reference, statements=statements),
            auth,
        )

    async def push_manifest_list(
        self, ref: str, parts: Sequence[ListPart], auth: AuthConfig | None = None,
        document: tuple[str, bytes] | None = None,
    ) -> str:  # fmt: skip
        """Push a manifest list under ``ref``; its digest. ``document``: see ``push_parts``."""
        from portside.images.remote_manifests import push_parts

        return await push_parts(self.registries, Reference.parse(ref), parts, auth, document)

    async def push_artifact(
        self,
        ref: str,
        blobs: Sequence[bytes],
        manifest: bytes,
        media_type: str,
        auth: AuthConfig | None = None,
    ) -> str:
        """Push a manifest with its blobs under ``ref``; its digest."""
        from portside.images.artifacts import push_artifact
        from portside.registry.client.repository import Repository, push_scope

        target = Reference.parse(ref)
        return await self.registries.on_registry(
            target.domain,
            lambda connection: push_artifact(
                Repository(connection, target.path), target.tagged().tag, blobs, manifest,
                media_type,
            ),
            auth=auth,
            push=True,
            scopes=(push_scope(target.path),),
        )  # fmt: skip

    async def pull_artifact(
        self, ref: str, auth: AuthConfig | None = None, *, with_blobs: bool
    ) -> tuple[FetchedManifest, Sequence[bytes]]:
        """A manifest of another kind, and its layers: ``artifacts.pull_artifact``."""
        from portside.images.artifacts import pull_artifact

        reference = Reference.parse(ref)
        return await self._at(
            reference,
            lambda repository: pull_artifact(repository, reference.target, with_blobs=with_blobs),
            auth,
        )


def _nobody(type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> None:
    """The event publisher when nobody listens."""
