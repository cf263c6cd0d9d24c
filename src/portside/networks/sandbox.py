"""A running container's network as the engine holds it, and the book of all of them.

The book keeps the metadata and the memory together: a record is written, with the unique names
that stand for its addresses, in the same transaction, before anything in the kernel changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from portside.model.errors import Forbidden
from portside.networks.dns.name_server import NameServer
from portside.networks.endpoints import lease_names
from portside.networks.netns_pool import Namespace
from portside.networks.network_records import EndpointRecord, SandboxRecord
from portside.store.db import Database, NameTaken


@dataclass(slots=True)
class Sandbox:
    """A running container's network: its record and what the engine holds open for it."""

    record: SandboxRecord
    space: Namespace | None = None
    server: NameServer | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def container_id(self) -> str:
        return self.record.request.container_id

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.space is not None:
            self.space.close()
            self.space = None


class Book:
    """All sandboxes, by container."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._documents = db.collection("sandbox", SandboxRecord)
        self._sandboxes: dict[str, Sandbox] = {}

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._sandboxes

    def get(self, container_id: str) -> Sandbox | None:
        return self._sandboxes.get(container_id)

    def all(self) -> list[Sandbox]:
        return list(self._sandboxes.values())

    def records(self) -> list[SandboxRecord]:
        return [sandbox.record for sandbox in self._sandboxes.values()]

    def stored(self) -> list[SandboxRecord]:
        """What the metadata says, also of what was not taken over yet."""
        return self._documents.all()

    def on_network(self, network_id: str) -> list[tuple[SandboxRecord, EndpointRecord]]:
        """Running containers on a network with their endpoints."""
        return [
            (record, endpoint)
            for record in self.records()
            for endpoint in record.endpoints
            if endpoint.network_id == network_id
        ]

    def add(self, sandbox: Sandbox) -> None:
        """Record a new one; Forbidden when the metadata says that an address is in use."""
        record = sandbox.record
        claims = [name for endpoint in record.endpoints for name in lease_names(endpoint)]
        try:
            self._documents.insert(sandbox.container_id, record, *claims)
        except NameTaken as err:
            raise Forbidden(f"Address already in use: {err}") from err
        self._sandboxes[sandbox.container_id] = sandbox

    def take_over(self, record: SandboxRecord) -> Sandbox:
        """One that the metadata knows already."""
        sandbox = self._sandboxes[record.request.container_id] = Sandbox(record)
        return sandbox

    def change(self, sandbox: Sandbox, **changes: object) -> None:
        record = msgspec.structs.replace(sandbox.record, **changes)
        self._documents.put(sandbox.container_id, record)
        sandbox.record = record

    def claim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        """Record one more endpoint and its addresses."""
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.claim(name, sandbox.container_id)
            self.change(sandbox, endpoints=(*sandbox.record.endpoints, endpoint))

    def unclaim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        rest = tuple(e for e in sandbox.record.endpoints if e.endpoint_id != endpoint.endpoint_id)
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.release(name)
            self.change(sandbox, endpoints=rest)

    def forget(self, container_id: str) -> None:
        """Drop a container's record and its addresses' names from the metadata."""
        self._documents.delete(container_id)
        self._sandboxes.pop(container_id, None)

    def clear(self) -> None:
        """Let go of everything; the metadata stays."""
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._sandboxes.clear()
