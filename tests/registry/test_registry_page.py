"""The registry's page in a real, headless Chromium: browse, sizes, delete with confirmation."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browserkit import Driver

from registry.conftest import Client


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
        "[...document.querySelectorAll('#repositories a')].map(e => e.textContent).join()",
    )
    assert "team/app2 tags, 2.00 MB" in listed and "other1 tag," in listed
    await browser("run", CLICK.format("#repositories a", "team/app"))
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
    await browser("run", "document.querySelector('#repositories a').click()")
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
    await browser("until", "document.querySelector('#repositories a')")
    await browser("run", "document.querySelector('#repositories a').click()")
    await browser("until", "document.querySelector('details')")
    assert await browser("run", "return document.querySelector('details img')") is None
    assert kind in await browser("run", "return document.querySelector('details').textContent")
    assert await browser("run", "return document.title") == "evil – Registry"


SIGN_IN = """
document.querySelector('#login-user').value = '{0}';
document.querySelector('#login-password').value = '{1}';
document.querySelector('#login-go').click();
"""
SIGNED_IN = "document.querySelector('#user').textContent.startsWith('signed in as joe')"


async def test_signing_in_and_out(serve: Any, browser: Ask, tmp_path: Path) -> None:
    """By a form of the page's own, which says when the password is wrong."""
    from imagekit import htpasswd_line

    (tmp_path / "htpasswd").write_text(htpasswd_line("joe", "secret"))
    registry = await serve(REGISTRY_AUTH_HTPASSWD_PATH=str(tmp_path / "htpasswd"))
    await browser("open", f"{registry.base}/")
    await browser("until", "document.querySelector('#login').open")
    await browser("run", SIGN_IN.format("joe", "guess"))
    problem = await browser("until", "document.querySelector('#login-problem').innerText")
    assert problem == "The user name or the password is wrong."
    await browser("run", SIGN_IN.format("joe", "secret"))
    await browser("until", SIGNED_IN)
    assert await browser("run", "return document.cookie") == "", "scripts cannot read it"
    await browser("open", f"{registry.base}/portside/registry/")
    await browser("until", SIGNED_IN)
    # the session opens nothing but the page
    given = {"user": "joe", "password": "secret"}
    _, headers, _ = await registry.ask("POST", "/portside/registry/session", json=given)
    cookie, _, attributes = headers["Set-Cookie"].partition(";")
    assert "HttpOnly" in attributes and "SameSite=Strict" in attributes
    for path, status in (("/portside/registry/repositories", 200), ("/v2/", 401)):
        assert (await registry.ask("GET", path, headers={"Cookie": cookie}))[0] == status
    (tmp_path / "htpasswd").write_text(htpasswd_line("joe", "changed"))
    path = "/portside/registry/repositories"
    assert (await registry.ask("GET", path, headers={"Cookie": cookie}))[0] == 401
    (tmp_path / "htpasswd").write_text(htpasswd_line("joe", "secret"))
    await browser("run", CLICK.format("#user button", "Sign out"))
    await browser("until", "document.querySelector('#login').open")
    await browser("open", f"{registry.base}/portside/registry/")
    await browser("until", "document.querySelector('#login').open")


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
    await browser("run", CLICK.format("#user button", "Sign in"))
    await browser("run", SIGN_IN.format("joe", "secret"))
    await browser("until", "document.querySelectorAll('#repositories li').length == 2")
    await browser("run", CLICK.format("#repositories a", "team/app"))
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
    await browser("until", "document.querySelector('#repositories a')")
    await browser("run", "document.querySelector('#repositories a').click()")
    await browser("until", "document.querySelector('tr[data-tag=all]')")
    shown = await browser("run", "return document.querySelector('tr[data-tag=all]').textContent")
    assert "linux/amd64, linux/arm64" in shown and "1.00 kB" in shown and "2.00 kB" in shown


async def test_addresses_focus_and_the_keyboard(serve: Any, browser: Ask) -> None:
    registry = await serve()
    for tag in ("v2", "v10", "v1"):
        await registry.push_image("Team/App".lower(), tag)
    await registry.push_image("app10", "x")
    await registry.push_image("app9", "x")
    page = f"{registry.base}/portside/registry/"
    await browser("open", f"{page}#/team/app:v10")
    await browser("until", "document.querySelector('tr.wanted[data-tag=v10] details')?.open")
    assert await browser("run", "return document.title") == "team/app – Registry"
    names = "return [...document.querySelectorAll('#repositories a')].map(e => e.dataset.name)"
    assert await browser("run", names) == ["app9", "app10", "team/app"]
    await browser("run", "document.querySelector('[data-order=Tag]').click()")
    tags = "return [...document.querySelectorAll('tr[data-tag]')].map(e => e.dataset.tag)"
    assert await browser("run", tags) == ["v1", "v2", "v10"]
    # the focus follows: into the detail, back to the list, and it stays while one filters
    await browser("run", "document.querySelector('#repositories a').click()")
    await browser("until", "document.activeElement.matches('#detail h2')")
    assert await browser("run", "return location.hash") == "#/app9"
    await browser("run", "history.back()")
    await browser("until", "document.querySelector('#detail h2')?.innerText == 'team/app'")
    await browser("run", "location.hash = '#/'")
    await browser("until", "document.activeElement.dataset.name == 'team/app'")
    filter = (
        "const f = document.querySelector('#filter'); f.value = '{0}';"
        "f.dispatchEvent(new Event('input'))"
    )
    await browser("run", filter.format("TEAM"))
    assert await browser("run", names) == ["team/app"]
    assert await browser("run", "return document.activeElement.dataset.name") == "team/app"
    await browser("run", filter.format("nowhere"))
    said = await browser("run", "return document.querySelector('#none').innerText")
    assert said == "No repository has “nowhere” in its name."
    await browser("run", "location.hash = '#/team/app:gone'")
    await browser("until", "document.querySelector('#error').innerText.includes('no tag gone')")


async def test_shared_blobs_count_once(serve: Any, browser: Ask) -> None:
    registry = await serve()
    for name in ("one", "two"):
        await registry.push_image(name, "v1", b"z" * 3_000_000)
    await browser("open", f"{registry.base}/")
    total = await browser("until", "document.querySelector('#total').innerText")
    assert total == "2 repositories, 3.00 MB on disk"
    icon = await registry.ask("GET", "/portside/registry/favicon.svg")
    assert (icon[0], icon[1]["Content-Type"]) == (200, "image/svg+xml")


async def test_on_a_narrow_screen(serve: Any, driver: Driver, browser: Ask, tmp_path: Path) -> None:
    """400 pixels: nothing is cut off, what was tapped is seen, deleting is within reach."""
    registry = await serve()
    await registry.push_image("some/quite/long/name-of-a-repository/application", "v1")
    await registry.push_image("some/quite/long/name-of-a-repository/application", "v2" * 20)
    device = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    path = "/goog/cdp/execute"
    metrics = {"cmd": "Emulation.setDeviceMetricsOverride", "params": device}
    await asyncio.to_thread(driver, "POST", path, metrics)
    try:
        await browser("open", f"{registry.base}/")
        await browser("until", "document.querySelector('#repositories a')")
        wide = "return document.documentElement.scrollWidth"
        assert await browser("run", wide) <= 400
        await browser("run", "document.querySelector('#repositories a').click()")
        await browser("until", "document.querySelectorAll('tr[data-tag]').length == 2")
        await browser(
            "run", "document.querySelectorAll('details').forEach(d => { d.open = true; })"
        )
        assert await browser("run", wide) <= 400
        shown = "#detail h2, #tags .danger, #tags .copy, .back"
        seen = (
            f"return [...document.querySelectorAll('{shown}')].every(e => "
            "{ const r = e.getBoundingClientRect();"
            " return r.width > 0 && r.left >= 0 && r.right <= 400; })"
        )
        assert await browser("run", seen)
        assert await browser("run", "return document.querySelector('nav').offsetParent") is None
        picture = await asyncio.to_thread(driver, "GET", "/screenshot")
        (tmp_path / "narrow.png").write_bytes(base64.b64decode(picture))
        await browser("run", "document.querySelector('.back').click()")
        await browser("until", "document.querySelector('nav').offsetParent")
    finally:
        metrics = {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}}
        await asyncio.to_thread(driver, "POST", path, metrics)


async def test_copying(serve: Any, browser: Ask) -> None:
    registry = await serve()
    digest = await registry.push_image("app", "v1")
    await browser("open", f"{registry.base}/portside/registry/#/app")
    await browser("until", "document.querySelector('#tags .copy')")
    await browser(
        "run",
        "window.copied = []; navigator.clipboard.writeText = async t => { copied.push(t); };"
        "document.querySelectorAll('#detail .copy').forEach(b => b.click())",
    )
    copied = await browser("until", "window.copied.length >= 3 && window.copied")
    host = registry.base.partition("://")[2]
    assert copied[0] == copied[1] == f"docker pull {host}/app:v1" and copied[2] == digest
