"""Blobs from a registry into the store: verified, resumed, tried again."""

from __future__ import annotations

from portside.images.progress_meter import Meter
from portside.model.counted import counted
from portside.model.digest import Digest
from portside.model.image import Descriptor
from portside.registry.client.errors import BadContent, BadRedirect, Unreachable
from portside.registry.client.repository import Repository
from portside.registry.client.transport import pause, wait_before_retry
from portside.store.blobs import DigestMismatch, Ingest, SizeMismatch
from portside.store.db import Ref
from portside.store.store import Store

_PROGRESS = 1 << 18
"""Bytes that an interrupted attempt must have received to reset the count of attempts."""


async def fetch_blob(
    store: Store, repository: Repository, descriptor: Descriptor, owner: Ref, meter: Meter
) -> None:
    """Bring a blob into the store, owned by ``owner``; nothing to do when it is there.

    A connection that breaks is resumed where it stopped. Raises BadContent when the bytes
    are not what the digest says (nothing is kept then), else what the registry client
    raises; cancelling keeps the bytes so far.
    """
    digest = Digest(descriptor.digest)
    size = descriptor.size if descriptor.size >= 0 else None
    async with store.blobs.ingest(digest, size, owner=owner) as ingest:
        if ingest.complete:
            return
        await _fetch(repository, descriptor, ingest, meter)


async def _fetch(
    repository: Repository, descriptor: Descriptor, ingest: Ingest, meter: Meter
) -> None:
    options = repository.connection.transport.options
    attempt = 0
    while True:
        begun = ingest.offset
        try:
            await _receive(repository, descriptor, ingest, meter)
            meter.say("Verifying Checksum")
            await ingest.commit()
            return
        except DigestMismatch as err:
            # Bytes left by an earlier attempt may be what is wrong: one try from scratch.
            if not begun:
                raise BadContent(
                    f"filesystem layer verification failed for digest {descriptor.digest}"
                ) from err
            continue
        except (Unreachable, SizeMismatch) as err:
            if isinstance(err, SizeMismatch) and err.actual > err.expected:
                raise BadContent(
                    f"blob {descriptor.digest} is longer than the {err.expected} bytes its "
                    "manifest promises"
                ) from err
            if isinstance(err, BadRedirect):
                raise
            attempt = 0 if ingest.offset - begun >= _PROGRESS else attempt
            delay = wait_before_retry(attempt, None, options.retry_delay)
            attempt += 1
            if delay is None or attempt >= options.max_download_attempts:
                raise _broken(err, descriptor, ingest) from err
            await pause(delay, lambda left: meter.say(f"Retrying in {_seconds(left)}"))


async def _receive(
    repository: Repository, descriptor: Descriptor, ingest: Ingest, meter: Meter
) -> None:
    if descriptor.size >= 0 and ingest.offset == descriptor.size:
        return  # an earlier attempt ended between the last byte and the rename
    async with repository.open_blob(
        descriptor.digest,
        ingest.offset,
        lambda left: meter.say(f"Retrying in {_seconds(left)}"),
        descriptor.urls[0] if descriptor.urls else "",
    ) as (start, chunks):
        if start != ingest.offset:
            await ingest.discard()
        async for chunk in chunks:
            await ingest.write(chunk)
            meter.count("Downloading", ingest.offset)


def _broken(err: Exception, descriptor: Descriptor, ingest: Ingest) -> Exception:
    if isinstance(err, SizeMismatch):
        return Unreachable(
            f"blob {descriptor.digest} broke off after {ingest.offset} of {descriptor.size} "
            "bytes: unexpected EOF"
        )
    return err


def _seconds(left: float) -> str:
    return counted(max(1, round(left)), "seconds")
