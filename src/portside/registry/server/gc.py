"""Garbage collection and retention, while the registry serves.

Mark: every manifest of every repository names blobs and child manifests; all of them are
live. Sweep: links to blobs that no manifest of the same repository names go, then blobs
that nothing names. What is younger than the grace period stays whatever names it: a
pusher sends blobs before the manifest, and a blob that was asked for (HEAD) or mounted is
touched, as is all that a manifest names. Each removal is decided again under the
registry's guard, so that a manifest can never be accepted between the decision and the
removal.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress

import msgspec

from portside.model.digest import Digest
from portside.registry.server.config import Retention
from portside.registry.server.content import Content, Repository, Tag, blob_key
from portside.registry.server.errors import RegistryError
from portside.registry.server.names import fits


class Collected(msgspec.Struct):
    """Result of one pass."""

    tags: int = 0
    manifests: int = 0
    links: int = 0
    blobs: int = 0
    bytes: int = 0


class Collector:
    """Collects in one registry; ``grace`` in seconds."""

    def __init__(
        self, content: Content, grace: float, retention: tuple[Retention, ...] = ()
    ) -> None:
        self._content = content
        self._grace = grace
        self._retention = retention

    async def run(self, *, untagged: bool = False, dry_run: bool = False) -> Collected:
        """One pass; ``untagged`` also removes manifests that no tag or index leads to."""
        done = Collected()
        names = await self._content.repositories()
        for name in names:
            await self._retain(self._content.repository(name), done, dry_run)
        if untagged:
            for name in names:
                repository = self._content.repository(name)
                every = {digest async for digest in repository.revisions()}
                await self._forget(repository, every, frozenset(), done, dry_run)
        for name in names:
            await self._sweep_links(self._content.repository(name), done, dry_run)
        await self._sweep_blobs(done, dry_run)
        self._content.forget(self._grace)
        return done

    async def _retain(self, repository: Repository, done: Collected, dry_run: bool) -> None:
        """Remove the tags a rule does not keep, and what only they led to."""
        rule = next((r for r in self._retention if fits(r.repository, repository.name)), None)
        if rule is None:
            return
        gone = expired(rule, await repository.tags(), time.time())
        for tag in gone:
            done.tags += 1
            if not dry_run:
                async with self._content.guard.alone():
                    with suppress(RegistryError):
                        await repository.delete_tag(tag.name)
        reached = await self._reach(repository, [tag.digest for tag in gone])
        names = frozenset(tag.name for tag in gone)
        await self._forget(repository, reached, names, done, dry_run)

    async def _reach(self, repository: Repository, start: list[Digest]) -> set[Digest]:
        """These manifests, the manifests they name and the manifests that refer to them."""
        reached: set[Digest] = set()
        pending = list(start)
        while pending:
            digest = pending.pop()
            if digest in reached:
                continue
            reached.add(digest)
            with suppress(RegistryError):
                parsed = await repository.manifest(digest)
                pending += [Digest(child.digest) for child in parsed.children]
                pending += [found.digest for found in await repository.referrers(digest)]
        return reached

    async def _forget(
        self,
        repository: Repository,
        candidates: set[Digest],
        without: frozenset[str],
        done: Collected,
        dry_run: bool,
    ) -> None:
        """Remove the candidates that no tag leads to, the tags ``without`` not counted."""
        tags = [tag for tag in await repository.tags() if tag.name not in without]
        live = await self._reach(repository, [tag.digest for tag in tags])
        for digest in sorted(candidates - live):
            if await self._young(digest):
                continue
            done.manifests += 1
            if not dry_run:
                async with self._content.guard.alone():
                    # a tag or an index that came meanwhile touched it
                    if not await self._young(digest):
                        with suppress(RegistryError):
                            await repository.delete_manifest(digest)

    async def _named_in(self, repository: Repository) -> set[Digest]:
        """Every blob and manifest that the repository's manifests name, and themselves."""
        named: set[Digest] = set()
        async for digest in repository.revisions():
            named.add(digest)
            with suppress(RegistryError):
                parsed = await repository.manifest(digest)
                named.update(Digest(part.digest) for part in (*parsed.blobs, *parsed.children))
        return named

    async def _sweep_links(self, repository: Repository, done: Collected, dry_run: bool) -> None:
        named = await self._named_in(repository)
        for digest in [d async for d in repository.blobs() if d not in named]:
            if await self._young(digest):
                continue
            done.links += 1
            if not dry_run:
                async with self._content.guard.alone():
                    # a manifest naming it may have come since the mark; it also touched it
                    if not await self._young(digest):
                        with suppress(RegistryError):
                            await repository.unlink_blob(digest)

    async def _sweep_blobs(self, done: Collected, dry_run: bool) -> None:
        live: set[Digest] = set()
        for name in await self._content.repositories():
            repository = self._content.repository(name)
            live |= await self._named_in(repository)
            live.update([digest async for digest in repository.blobs()])
        for digest in [d async for d in self._content.all_blobs() if d not in live]:
            async with self._content.guard.alone():
                try:
                    size = (await self._content.storage.stat(blob_key(digest))).size
                except FileNotFoundError:
                    size = 0  # a directory left by a crash
                if await self._young(digest):
                    continue
                done.blobs += 1
                done.bytes += size
                if not dry_run:
                    with suppress(FileNotFoundError):
                        await self._content.remove_blob(digest)

    async def _young(self, digest: Digest) -> bool:
        return await self._content.age(digest) < self._grace


def expired(rule: Retention, tags: list[Tag], now: float) -> list[Tag]:
    """The tags a rule does not keep: neither new enough, nor young enough, nor named."""
    if not (rule.keep_tags or rule.keep_days or rule.keep_pattern):
        return []
    newest = sorted(tags, key=lambda tag: tag.pushed, reverse=True)
    kept = {tag.name for tag in newest[: rule.keep_tags]}
    if rule.keep_days:
        kept |= {tag.name for tag in tags if now - tag.pushed < rule.keep_days * 86400}
    if rule.keep_pattern:
        kept |= {tag.name for tag in tags if re.fullmatch(rule.keep_pattern, tag.name)}
    return [tag for tag in tags if tag.name not in kept]
