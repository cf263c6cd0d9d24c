"""A registry in the test's own event loop, and the smallest image to push to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from portside.model.digest import Digest
from portside.registry.server.app import make_app
from portside.registry.server.config import load

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Client:
    """Requests on one registry, with paths instead of URLs."""

    def __init__(self, base: str, authorization: str = "") -> None:
        self.base = base
        headers = {"Authorization": authorization} if authorization else None
        self.session = aiohttp.ClientSession(headers=headers, auto_decompress=False)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, bytes]:
        url = path if path.startswith("http") else self.base + path
        async with self.session.request(method, url, allow_redirects=False, **options) as answer:
            return answer.status, answer.headers, await answer.read()

    async def push_blob(self, name: str, data: bytes) -> str:
        digest = Digest.of(data)
        status, _, body = await self.ask(
            "POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data=data
        )
        assert status == 201, body
        return str(digest)

    async def push_image(self, name: str, tag: str, content: bytes = b"layer", **more: Any) -> str:
        """Push config, one layer and a manifest; the manifest's digest is returned."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "salt": tag}).encode()
        parts = [
            {"mediaType": kind, "digest": await self.push_blob(name, data), "size": len(data)}
            for kind, data in (
                ("application/vnd.oci.image.config.v1+json", config),
                ("application/vnd.oci.image.layer.v1.tar", content),
            )
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": parts[0],
            "layers": parts[1:],
            **more,
        }
        data = json.dumps(manifest).encode()
        status, headers, body = await self.ask(
            "PUT",
            f"/v2/{name}/manifests/{tag}",
            data=data,
            headers={"Content-Type": OCI_MANIFEST},
        )
        assert status == 201, body
        return str(headers["Docker-Content-Digest"])


Serve = Callable[..., Awaitable[Client]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve(REGISTRY_…=value, yaml=text)`` starts a registry and gives a client."""
    runners: list[web.AppRunner] = []
    clients: list[Client] = []

    async def start(yaml: str = "", root: str = "data", **environ: str) -> Client:
        config = tmp_path / "config.yml"
        config.write_text(yaml)
        environ.setdefault("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", str(tmp_path / root))
        environ.setdefault("REGISTRY_STORAGE_DELETE_ENABLED", "true")
        app = make_app(load(str(config), environ))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        client = Client(f"http://127.0.0.1:{port}")
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.session.close()
    for runner in runners:
        await runner.cleanup()
