"""The registry's page in a real, headless Chromium: browse, sizes, delete with confirmation."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.conftest import Client

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


class Driver:
    """Chromium through chromedriver, in the words of the WebDriver protocol."""

    def __init__(self, profile: Path) -> None:
        program, browser = shutil.which("chromedriver"), shutil.which("chromium")
        if program is None or browser is None:
            pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        home = {**os.environ, "HOME": str(profile)}
        self._process = subprocess.Popen(
            [program, f"--port={self._port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home,
        )  # fmt: skip
        options = {
            "binary": browser,
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        self._session = ""
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = self._begin(wanted)["sessionId"]

    def _begin(self, wanted: Any) -> Any:
        until = time.monotonic() + 60
        while True:
            try:
                return self("POST", "/session", wanted)
            except ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        where = path if path == "/session" else f"/session/{self._session}{path}"
        data = json.dumps(body if body is not None else {}) if method == "POST" else None
        connection.request(method, where, data, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def run(self, script: str) -> Any:
        return self("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, script: str) -> Any:
        """What the script returns once that is true."""
        deadline = time.monotonic() + 30
        while not (value := self.run(f"return {script}")):
            if time.monotonic() > deadline:
                page = self.run("return document.body.innerText")
                raise AssertionError(f"never true: {script}\n{page}")
            time.sleep(0.05)
        return value

    def close(self) -> None:
        try:
            if self._session:
                self("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
async def browser(driver: Driver) -> AsyncIterator[Ask]:
    """``await browser("open", url)``: calls in a thread, since the registry is in this loop."""

    async def call(what: str, argument: str) -> Any:
        if what == "open":
            return await asyncio.to_thread(driver, "POST", "/url", {"url": argument})
        return await asyncio.to_thread(getattr(driver, what), argument)

    yield call


CLICK = "[...document.querySelectorAll('{0}')].find(e => e.textContent.startsWith('{1}')).click()"


async def test_browse_and_delete(serve: Any, browser: Ask) -> None:
    registry = await serve()
    await registry.push_image("team/app", "v1", b"x" * 2_000_000)
    await registry.push_image("team/app", "v2", b"y" * 1000)
    await registry.push_image("other", "latest")
    await browser("open", f"{registry.base}/")
    listed = await browser(
        "until",
        "[...document.querySelectorAll('#repositories button')].map(e => e.textContent).join()",
    )
    assert "team/app2 tags, 2.00 MB" in listed and "other1 tag," in listed
    await browser("run", CLICK.format("#repositories button", "team/app"))
    await browser("until", "document.querySelectorAll('tr[data-tag]').length == 2")
    shown = await browser("run", "return document.querySelector('tr[data-tag=v1]').innerText")
    assert "sha256:" in shown and "2.00 MB" in shown and "1 layer" in shown
    # saying no keeps it
    await browser("run", "document.querySelector('tr[data-tag=v1] .danger').click()")
    question = await browser(
        "until", "document.querySelector('#confirm[open] #question')?.innerText"
    )
    assert question.startswith("Delete the tag v1 of team/app?")
    await browser("run", "document.querySelector('#confirm button[value=no]').click()")
    await browser("until", "!document.querySelector('#confirm').open")
    assert (await registry.ask("GET", "/v2/team/app/manifests/v1"))[0] == 200
    # saying yes deletes it
    await browser("run", "document.querySelector('tr[data-tag=v1] .danger').click()")
    await browser("run", "document.querySelector('#really').click()")
    await browser("until", "document.querySelectorAll('tr[data-tag]').length == 1")
    assert (await registry.ask("GET", "/v2/team/app/manifests/v1"))[0] == 404
    assert (await registry.ask("GET", "/v2/team/app/manifests/v2"))[0] == 200
    assert await browser("run", "return document.querySelector('#error').hidden")


async def test_filter_empty_and_no_rights_to_delete(serve: Any, browser: Ask) -> None:
    registry = await serve(REGISTRY_STORAGE_DELETE_ENABLED="false")
    await browser("open", f"{registry.base}/portside/registry/")
    await browser("until", "!document.querySelector('#empty').hidden")
    hint = await browser("run", "return document.querySelector('#empty').innerText")
    assert f"docker push {registry.base.partition('://')[2]}/name:tag" in hint
    await registry.push_image("alpha", "1")
    await registry.push_image("beta", "1")
    await browser("open", f"{registry.base}/portside/registry/")
    await browser("until", "document.querySelectorAll('#repositories li').length == 2")
    await browser(
        "run",
        "const f = document.querySelector('#filter'); f.value = 'bet';"
        "f.dispatchEvent(new Event('input'))",
    )
    await browser("until", "document.querySelectorAll('#repositories li').length == 1")
    await browser("run", "document.querySelector('#repositories button').click()")
    await browser("until", "document.querySelectorAll('tr[data-tag]').length == 1")
    assert not await browser("run", "return document.querySelector('tr[data-tag] .danger')")


async def test_names_are_never_markup(serve: Any, browser: Ask) -> None:
    """What a pusher may choose freely (a media type) is shown as text."""
    registry = await serve()
    config = await registry.push_blob("evil", b"{}")
    kind = "<img src=x onerror=document.title='owned'>"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "x/y", "digest": config, "size": 2},
        "layers": [{"mediaType": kind, "digest": config, "size": 2}],
    }
    status, _, body = await registry.ask(
        "PUT", "/v2/evil/manifests/1", data=json.dumps(manifest).encode(),
        headers={"Content-Type": manifest["mediaType"]},
    )  # fmt: skip
    assert status == 201, body
    await browser("open", f"{registry.base}/")
    await browser("until", "document.querySelector('#repositories button')")
    await browser("run", "document.querySelector('#repositories button').click()")
    await browser("until", "document.querySelector('details')")
    assert await browser("run", "return document.querySelector('details img')") is None
    assert kind in await browser("run", "return document.querySelector('details').textContent")
    assert await browser("run", "return document.title") == "Registry"


@pytest.mark.parametrize("password", ["secret"])
async def test_signed_in(serve: Any, browser: Ask, tmp_path: Path, password: str) -> None:
    from imagekit import htpasswd_line

    (tmp_path / "htpasswd").write_text(htpasswd_line("joe", password))
    registry = await serve(REGISTRY_AUTH_HTPASSWD_PATH=str(tmp_path / "htpasswd"))
    await browser("open", registry.base.replace("://", f"://joe:{password}@") + "/")
    await browser("until", "document.querySelector('#user').textContent == 'signed in as joe'")


RIGHTS = """
portside:
  rights:
    - {user: joe, actions: [pull, push, delete]}
    - {user: anonymous, repository: "public/*"}
"""


async def test_a_visitor_signs_in_and_deletes(serve: Any, browser: Ask, tmp_path: Path) -> None:
    """Where clients are sent for tokens, which browsers do not know."""
    from imagekit import htpasswd_line

    (tmp_path / "htpasswd").write_text(htpasswd_line("joe", "secret"))
    registry = await serve(RIGHTS, REGISTRY_AUTH_HTPASSWD_PATH=str(tmp_path / "htpasswd"))
    pusher = Client(registry.base, "Basic " + base64.b64encode(b"joe:secret").decode())
    try:
        await pusher.push_image("public/app", "v1")
        await pusher.push_image("team/app", "v1")
    finally:
        await pusher.session.close()
    await browser("open", f"{registry.base}/")
    await browser("until", "document.querySelectorAll('#repositories li').length == 1")
    link = await browser("run", "return document.querySelector('#user a').href")
    await browser("open", link.replace("://", "://joe:secret@"))
    await browser("until", "document.querySelectorAll('#repositories li').length == 2")
    await browser("run", CLICK.format("#repositories button", "team/app"))
    await browser("until", "document.querySelector('tr[data-tag=v1]')")
    await browser("run", "document.querySelector('tr[data-tag=v1] .danger').click()")
    await browser("run", "document.querySelector('#really').click()")
    await browser("until", "document.querySelector('#detail').innerText.includes('No tags.')")
    assert await browser("run", "return document.querySelector('#error').hidden")


async def test_platforms_of_an_index(serve: Any, browser: Ask) -> None:
    registry = await serve()
    index = {"schemaVersion": 2, "manifests": []}
    for number, architecture in enumerate(("amd64", "arm64")):
        digest = await registry.push_image("app", architecture, b"x" * 1000 * (number + 1))
        index["manifests"].append(
            {"digest": digest, "platform": {"os": "linux", "architecture": architecture}}
        )
    data = json.dumps(index).encode()
    assert (await registry.ask("PUT", "/v2/app/manifests/all", data=data))[0] == 201
    await browser("open", f"{registry.base}/")
    await browser("until", "document.querySelector('#repositories button')")
    await browser("run", "document.querySelector('#repositories button').click()")
    await browser("until", "document.querySelector('tr[data-tag=all]')")
    shown = await browser("run", "return document.querySelector('tr[data-tag=all]').textContent")
    assert "linux/amd64, linux/arm64" in shown and "1.00 kB" in shown and "2.00 kB" in shown
