"""The pages in a real, headless Chromium: lists, charts, live values, logs, the keyboard."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browserkit import Driver
from enginekit import RunningEngine
from monitorkit import RunningMonitor, until

Docker = Callable[..., Any]
ROWS = "[...document.querySelectorAll('.groups tbody tr:not(.space)')].filter(r => !r.hidden)"
KNOWN = "document.querySelector('.groups').ariaRowCount - 1"
"""How many rows the table has, in the document or not."""
NAMES = f"{ROWS}.map(r => r.querySelector('.name').textContent)"
FILLED = """[...document.querySelectorAll('.chart')].map(box => {
  const canvas = box.querySelector('canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const values = [...box.querySelectorAll('.u-series:not(:first-child) .u-value')];
  return data.some(one => one) && values.every(one => /\\d/.test(one.textContent));
})"""
ARROW_DOWN, ARROW_UP, ARROW_LEFT, ENTER = "\ue015", "\ue013", "\ue012", "\ue007"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def page(driver: Driver) -> Iterator[Driver]:
    """The browser; nothing may be said on its console."""
    driver.screen(1280)
    driver.problems()
    yield driver
    # reading the charts' pixels again and again, as only these tests do, gets a warning
    problems = [text for text in driver.problems() if "willReadFrequently" not in text]
    driver.open("about:blank")
    assert not problems, problems


@pytest.fixture
def app(docker: Docker, monitor: RunningMonitor) -> Iterator[str]:
    """A container with everything that a page shows."""
    docker(
        "run", "-d", "--name", "app", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50",
        "-v", "app-data:/data", "-p", "127.0.0.1::80", "-e", "PASSWORD=hidden",
        "--label", "com.example.team=<b>blue</b>",
        "--health-cmd", "echo '<img src=x onerror=alert(1)>'", "--health-interval", "1s",
        "portside/base", "sh", "-c",
        "i=0; while :; do i=$((i+1)); echo line $i; echo problem $i >&2; usleep 200000; done",
    )  # fmt: skip
    until(lambda: known(monitor, "app"), "the container is not seen")
    yield "app"
    docker("rm", "-f", "app", check=False)
    docker("volume", "rm", "app-data", check=False)


def known(monitor: RunningMonitor, name: str) -> bool:
    status, _, body = monitor.request(f"/api/portside/v1/group?name={name}")
    return status == 200 and bool(json.loads(body)["row"]["image"])


def address(monitor: RunningMonitor, path: str) -> str:
    return f"http://127.0.0.1:{monitor.port}{path}"


def test_list_of_containers(
    app: str, page: Driver, monitor: RunningMonitor, docker: Docker
) -> None:
    docker("run", "-d", "--name", "idle", "portside/base", "sleep", "1000")
    try:
        until(lambda: known(monitor, "idle"))
        page.open(address(monitor, "/docker/"))
        page.until(f"{NAMES}.includes('app') && {NAMES}.includes('idle')")
        page.until(f"{ROWS}.some(r => /app.*healthy/s.test(r.innerText))")
        row = page.run(f"return {ROWS}.find(r => r.textContent.includes('app')).innerText")
        assert "portside/base" in row and "of 64.0 MiB" in row
        # a container that comes appears by itself, one that goes away disappears
        docker("run", "-d", "--name", "late", "portside/base", "sleep", "1000")
        page.until(f"{NAMES}.includes('late')")
        docker("rm", "-f", "late")
        page.until(f"!{NAMES}.includes('late')")
        # sorted by name, up and down
        page.run("document.querySelector('th[data-key=name] .sort').click()")
        names = page.run(f"return {NAMES}.filter(n => n == 'app' || n == 'idle')")
        assert names == ["app", "idle"]
        page.run("document.querySelector('th[data-key=name] .sort').click()")
        names = page.run(f"return {NAMES}.filter(n => n == 'app' || n == 'idle')")
        assert names == ["idle", "app"]
        # the keyboard: / goes to the filter, an arrow to the first row, Enter opens it
        page.press("/", *"team=", ARROW_DOWN)
        page.until("document.activeElement.textContent == 'app'")
        assert page.run(f"return {NAMES}") == ["app"]
        page.press("c")
        page.until(f"document.querySelectorAll('.chart').length == 4 && {FILLED}.every(Boolean)")
        assert "compare=app" in page.run("return location.search")
        page.press(ENTER)
        page.until("location.pathname == '/docker/app'")
    finally:
        docker("rm", "-f", "idle", "late", check=False)


def test_page_of_a_container(app: str, page: Driver, monitor: RunningMonitor) -> None:
    page.open(address(monitor, "/docker/app?window=2m"))
    page.until(f"document.querySelectorAll('.chart').length == 7 && {FILLED}.every(Boolean)")
    gauges = page.run("return document.querySelector('.gauges').innerText")
    assert "of the quota of 0.5" in gauges and "of 64.0 MiB, the limit" in gauges
    assert "of 50" in gauges
    # times are the reader's: no text of the machine's own time zone, none of an API
    year = page.run("return new Date().toLocaleString(undefined, {dateStyle: 'short'})")
    page.until(f"document.querySelector('#processes')?.innerText.includes({json.dumps(year)})")
    page.until("document.querySelector('.pair').innerText.includes('app-data')")
    text = page.run("return document.querySelector('.pair').innerText")
    assert "80/tcp" in text and "127.0.0.1:" in text and "/data" in text
    assert "\n" + year in text.partition("Created")[2][: len(year) + 2]
    assert "Processors" in text and "64 MiB" in text and "hidden" not in text
    # what a container writes is text, never markup
    page.until("document.querySelector('.pair').innerText.includes('onerror')")
    assert page.run("return document.querySelector('main img, main dd b')") is None
    # the values live on by themselves
    first = page.run("return document.querySelector('.chart').innerText")
    page.until(f"document.querySelector('.chart').innerText != {json.dumps(first)}")
    # one cursor for all charts, moved by the keyboard
    page.run("document.querySelector('.chart').focus()")
    page.press(ARROW_LEFT, ARROW_LEFT)
    page.until(
        "new Set([...document.querySelectorAll('.u-series:first-child .u-value')]"
        ".map(one => one.textContent)).size == 1"
    )
    label = page.run("return document.querySelector('.chart').getAttribute('aria-label')")
    assert label.startswith("CPU, ") and "in use" in label


def test_memory_without_cache_leaves_the_cache_out(
    app: str, docker: Docker, page: Driver, monitor: RunningMonitor
) -> None:
    docker("exec", app, "dd", "if=/dev/zero", "of=/cached", "bs=1M", "count=16")
    page.open(address(monitor, "/docker/app?window=2m"))
    shown = """(() => {
      const found = (name) => {
        const row = [...document.querySelectorAll('.u-series')].find(
          (one) => one.querySelector('.u-label')?.textContent.startsWith(name));
        const [size, unit] = (row?.querySelector('.u-value')?.textContent ?? '').split(' ');
        return parseFloat(size) * ({ KiB: 1, MiB: 1024 }[unit] ?? NaN);
      };
      return found('with cache') - found('without cache') > 15000;
    })()"""
    page.until(shown)


def test_many_warnings_do_not_push_the_containers_away(
    docker: Docker, page: Driver, engine: RunningEngine, tmp_path: Path
) -> None:
    config = tmp_path / "monitor.yaml"
    config.write_text("rules: {pids_near_limit: {above: 1, below: 0.5, hold: 0s}}\n")
    names = [f"warned{number}" for number in range(5)]
    for name in names:
        docker("run", "-d", "--name", name, "--pids-limit", "20", "portside/base", "sleep", "1000")
    monitor = RunningMonitor(tmp_path, "--config", str(config), engine=engine.host)
    monitor.start()
    try:
        page.open(address(monitor, "/docker/"))
        count = "document.querySelectorAll('#alerts article').length"
        page.until(f"{count} >= 5")
        assert page.run("return document.querySelectorAll('#alerts > article').length") == 3
        page.run("document.querySelector('#alerts .more summary').click()")
        docker("run", "-d", "--name", "warned5", "--pids-limit", "20", "portside/base",
               "sleep", "1000")  # fmt: skip
        page.until(f"{count} >= 6")
        assert page.run("return document.querySelector('#alerts .more').open")
    finally:
        page.open("about:blank")
        monitor.stop()
        docker("rm", "-f", *names, "warned5", check=False)


def test_logs_and_explain(app: str, page: Driver, monitor: RunningMonitor) -> None:
    page.open(address(monitor, "/docker/app#logs"))
    page.until("document.querySelectorAll('.log div').length > 5")
    count = page.run("return document.querySelectorAll('.log div').length")
    page.until(f"document.querySelectorAll('.log div').length > {count}")
    assert page.run("return document.querySelector('.log .stderr').innerText").startswith("problem")
    page.run("document.querySelector('#explain summary').click()")
    page.until("document.querySelector('#explain').innerText.includes('overlay')")


def test_tree_of_groups(app: str, page: Driver, monitor: RunningMonitor) -> None:
    name = monitor.own("group", name="app")["row"]["name"]
    top = name.split("/")[1]
    page.open(address(monitor, "/containers/"))
    page.until(f"document.querySelectorAll('.chart').length == 6 && {FILLED}.every(Boolean)")
    page.until(f"{NAMES}.includes('{top}')")
    assert "app" not in page.run(f"return {NAMES}")
    page.run(
        f"{ROWS}.find(r => r.innerText.startsWith('▸\\n{top}') "
        f"|| r.querySelector('.name').textContent == '{top}').querySelector('.toggle').click()"
    )
    page.until(f"{NAMES}.includes('app')")
    page.open(address(monitor, f"/containers/{top}"))
    page.until(f"{NAMES}.includes('app')")
    page.open(address(monitor, f"/containers{name}"))
    page.until("document.querySelector('h2')?.innerText == 'app'")


@pytest.mark.parametrize("width", [320, 1280, 2560])
def test_nothing_is_cut_off(app: str, page: Driver, monitor: RunningMonitor, width: int) -> None:
    for path in ("/docker/", "/docker/app", "/containers/"):
        page.screen(width, dark=width == 1280)
        page.open(address(monitor, path))
        page.until("document.querySelector('tbody td')")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_nothing_is_asked_of_other_hosts(app: str, page: Driver, monitor: RunningMonitor) -> None:
    page.open(address(monitor, "/docker/"))
    page.until(f"{ROWS}.length")
    found = page.run("return performance.getEntriesByType('resource').map(r => r.name)")
    assert found and all(name.startswith(address(monitor, "/")) for name in found)
    for name in ("uplot.min.js", "page_tokens.css", "monitor.js"):
        status, headers, _ = monitor.request(f"/static/{name}", {"Accept-Encoding": "gzip"})
        assert status == 200 and headers["content-encoding"] == "gzip"
        assert monitor.request(f"/static/{name}", {"If-None-Match": headers["etag"]})[0] == 304


def test_unknown_names_and_an_engine_that_is_away(
    driver: Driver, monitor: RunningMonitor, tmp_path: Path
) -> None:
    driver.screen(1280)
    driver.open(address(monitor, "/docker/nobody"))
    driver.until("document.querySelector('#error').innerText.includes('nobody')")
    alone = RunningMonitor(tmp_path).start()
    try:
        driver.open(address(alone, "/containers/"))
        driver.until("document.querySelectorAll('.chart').length == 6")
        assert driver.run("return document.querySelector('#engine').innerText") == (
            "no engine answers"
        )
        assert alone.request("/api/portside/v1/logs?name=x")[0] == 403
    finally:
        driver.open("about:blank")
        alone.stop()


@contextlib.contextmanager
def containers_named(count: int) -> Iterator[str]:
    """Control groups that look like containers below a new one; nothing runs in them."""
    from portside.monitor.group_tree import layout_below, roots

    mount = roots(layout_below(""))[0]
    top = f"/ps-page-{secrets.token_hex(4)}"
    os.mkdir(mount + top)
    made = []
    try:
        for _ in range(count):
            made.append(f"{mount}{top}/{secrets.token_hex(32)}")
            os.mkdir(made[-1])
        yield top
    finally:
        for path in (*made, mount + top):
            os.rmdir(path)


@pytest.fixture
def many_groups() -> Iterator[str]:
    with containers_named(500) as top:
        yield top


def transferred(page: Driver) -> dict[str, int]:
    """Bytes that came over the wire, by address; the live stream has no end and no size."""
    return dict(
        page.run(
            "return [...performance.getEntriesByType('navigation'), "
            "...performance.getEntriesByType('resource')].map(r => [r.name, r.transferSize])"
        )
    )


def first_view(page: Driver, url: str) -> int:
    """Bytes of the page, loaded without what the browser has kept, once its rows are seen."""
    page.tools("Network.clearBrowserCache")
    page.open(url)
    page.until(f"{ROWS}.length && document.querySelector('#live').innerText == 'live'")
    return sum(transferred(page).values())


@pytest.mark.parametrize("path", ["/docker/", "/containers/"])
def test_first_view_is_small(page: Driver, tmp_path: Path, many_groups: str, path: str) -> None:
    """Whatever the number of groups: lists are compressed and have 500 rows at first."""
    watching = RunningMonitor(tmp_path).start()
    try:
        until(lambda: len(watching.own("groups", containers=1)) >= 500)
        size = first_view(page, address(watching, path))
        assert 40_000 < size < 300_000
        # the whole list has no place in it
        assert len(watching.request("/api/portside/v1/groups")[2]) > 250_000
    finally:
        page.open("about:blank")
        watching.stop()


def test_rows_beyond_the_first_500_follow(page: Driver, tmp_path: Path) -> None:
    with containers_named(510) as top:
        watching = RunningMonitor(tmp_path, "--root", top).start()
        try:
            _, headers, body = watching.request("/api/portside/v1/groups?containers=1&limit=500")
            assert len(json.loads(body)) == 500 and headers["portside-total-count"] == "510"
            assert len(watching.own("groups", below=top, depth=1)) == 510
            assert watching.own("group", name="/")["row"]["point"][2] > 0  # the machine's memory
            assert watching.request("/api/portside/v1/groups?below=/nowhere")[0] == 404
            assert watching.request("/api/portside/v1/groups?limit=0")[0] == 400
            plain = watching.request("/api/portside/v1/groups", {"Accept-Encoding": "identity"})
            packed = watching.request("/api/portside/v1/groups", {"Accept-Encoding": "gzip"})
            assert "content-encoding" not in plain[1]
            assert gzip.decompress(packed[2]) and len(packed[2]) * 4 < len(plain[2])
            page.open(address(watching, "/docker/"))
            page.until(f"{KNOWN} == 510")
        finally:
            page.open("about:blank")
            watching.stop()


def test_500_containers(page: Driver, tmp_path: Path, many_groups: str) -> None:
    """Only rows that are about to be seen are in the document; filter and order work on all."""
    watching = RunningMonitor(tmp_path, "--root", many_groups).start()
    try:
        until(lambda: len(watching.own("groups", containers=1)) == 500)
        page.open(address(watching, "/docker/"))
        page.until(f"{KNOWN} == 500")
        page.until(f"{ROWS}.every(row => row.querySelector('.number span').textContent)")
        assert 10 < page.run(f"return {ROWS}.length") < 60
        height = "document.querySelector('.groups').getBoundingClientRect().height"
        assert page.run(f"return {height} > 450 * {ROWS}[0].getBoundingClientRect().height")
        names = sorted(row["container"][:12] for row in watching.own("groups", containers=1))
        natural = "new Intl.Collator(undefined, {numeric: true, sensitivity: 'base'}).compare"
        in_order = page.run(f"return {json.dumps(names)}.sort({natural})")
        page.run("document.querySelector('th[data-key=name] .sort').click()")
        page.until(f"{NAMES}[0] == '{in_order[0]}'")
        page.run("scrollTo(0, document.body.scrollHeight)")
        page.until(f"{NAMES}.at(-1) == '{in_order[-1]}' && {ROWS}.at(-1).ariaRowIndex == 501")
        seen = page.run(f"return {ROWS}.at(-1).getBoundingClientRect().bottom <= innerHeight")
        assert seen and in_order[0] not in page.run(f"return {NAMES}")
        # the keyboard: the row above gets the focus, and comes into the window
        page.run(f"{ROWS}.at(-1).querySelector('.name').focus()")
        for number in range(2, 40):
            page.press(ARROW_UP)
            page.until(f"document.activeElement.textContent == '{in_order[-number]}'")
        place = "document.activeElement.getBoundingClientRect()"
        assert page.run(f"return {place}.top > 0 && {place}.bottom < innerHeight")
        name = in_order[321]
        page.press("/", *name)
        page.until(f"{ROWS}.length == 1 && {NAMES}[0] == '{name}'")
        page.until(f"{ROWS}[0].querySelector('.number span')?.textContent")
    finally:
        page.open("about:blank")
        watching.stop()


def test_the_document_has_what_the_first_view_shows(
    app: str, page: Driver, monitor: RunningMonitor
) -> None:
    """Rows and values come with the document: no request more before they are seen."""
    for path in ("/docker/", "/docker/app", "/containers/"):
        status, headers, body = monitor.request(path)
        assert status == 200 and headers["cache-control"] == "no-store"
        _, mark, rest = body.partition(b'<script id="first" type="application/json">')
        text, _, _ = rest.partition(b"</script>")
        first = json.loads(text)
        assert mark and b"<" not in text and first["about"]["series"]
        if path == "/docker/app":
            # a label of the container is markup: in the document it is not
            assert first["detail"]["row"]["labels"]["com.example.team"] == "<b>blue</b>"
        elif path == "/docker/":
            assert "app" in [row["shown"] for row in first["groups"]]
            assert first["total"] == len(first["groups"])
            assert first["running"] == sum(row["state"] == "running" for row in first["groups"])
        else:
            assert first["detail"]["row"]["name"] == "/" and first["groups"]
    assert b">null</script>" in monitor.request("/docker/nobody")[2]
    page.open(address(monitor, "/docker/"))
    page.until(f"{NAMES}.includes('app')")
    asked = page.run("return performance.getEntriesByType('resource').map(r => r.name)")
    assert not [name for name in asked if "about" in name]
    # charts and their library are for pages that have some
    assert not [name for name in asked if "uplot" in name or "charts" in name]
