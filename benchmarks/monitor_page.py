"""The monitor's pages in headless Chromium with many containers: when the first rows are seen,
bytes that were loaded, long tasks, and the time of frames while somebody scrolls, sorts, filters.

    python benchmarks/monitor_page.py [--containers 500] [--rounds 5]

The containers are control groups named as containers are; nothing runs in them, and the monitor
samples all of them each second (dynamic housekeeping off), so that all rows change. Needs root,
chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from browserkit import Driver  # noqa: E402
from monitorkit import RunningMonitor, until  # noqa: E402

from portside.monitor.group_tree import layout_below, roots  # noqa: E402

WATCH = """
window.longTasks = []; window.firstRow = 0;
new PerformanceObserver(list => longTasks.push(...list.getEntries().map(e => e.duration)))
  .observe({type: 'longtask', buffered: true});
const look = () => {
  if (document.querySelector('.groups tbody tr:not(.space) td')) firstRow = performance.now();
  else requestAnimationFrame(look);
};
look();
"""
FIRST = """
const [page] = performance.getEntriesByType('navigation');
const all = [page, ...performance.getEntriesByType('resource')];
return {
  "document (ms)": page.responseEnd, "DOM ready (ms)": page.domContentLoadedEventEnd,
  "first paint (ms)": performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0,
  "first rows (ms)": firstRow,
  "loaded (KB)": all.reduce((sum, r) => sum + r.transferSize, 0) / 1000,
  "longest task (ms)": Math.max(0, ...longTasks),
};
"""
FRAMES = """
window.frames_ = []; window.acting = true; window.longTasks.length = 0;
let last = performance.now();
const step = now => {
  frames_.push(now - last); last = now;
  if (acting) requestAnimationFrame(step);
};
requestAnimationFrame(step);
const act = () => { if (!acting) return; ACTION; setTimeout(act, 100); };
act();
"""
ACTIONS = {
    "scrolling": "scrollBy(0, 400); if (scrollY + innerHeight >= document.body.scrollHeight - 1)"
    " scrollTo(0, 0)",
    "sorting": "document.querySelector('th[data-key=name] .sort').click()",
    "filtering": "const f = document.querySelector('input[type=search]');"
    " f.value = f.value ? '' : 'a1'; f.dispatchEvent(new Event('input'))",
    "watching": "",
}


@contextmanager
def containers(count: int) -> Iterator[str]:
    """Control groups with containers' names below a new one."""
    top = Path(roots(layout_below(""))[0], f"ps-page-{secrets.token_hex(4)}")
    made = [top]
    top.mkdir()
    try:
        for _ in range(count):
            made.append(top / secrets.token_hex(32))
            made[-1].mkdir()
        yield f"/{top.name}"
    finally:
        for path in reversed(made):
            path.rmdir()


def first_view(driver: Driver, url: str) -> dict[str, float]:
    """What the page measured of itself, loaded with an empty cache."""
    driver.open("about:blank")
    driver.tools("Network.clearBrowserCache")
    driver.open(url)
    driver.until("window.firstRow")
    found: dict[str, float] = driver.run(FIRST)
    return found


def frames(driver: Driver, action: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each frame, and of tasks above 50, in four seconds of one action."""
    driver.run(FRAMES.replace("ACTION", action))
    driver.until("performance.now() > 0 && frames_.reduce((a, b) => a + b, 0) > 4000")
    driver.run("acting = false")
    return driver.run("return frames_.slice(1)"), driver.run("return longTasks")


def report(driver: Driver, url: str, rounds: int) -> None:
    taken = [first_view(driver, url) for _ in range(rounds)]
    for name in taken[0]:
        values = [one[name] for one in taken]
        print(f"{name:<20} median {statistics.median(values):8.1f}   best {min(values):8.1f}")
    for name, action in ACTIONS.items():
        times, tasks = frames(driver, action)
        times.sort()
        late = sum(time > 50 for time in times)
        print(
            f"{name:<12} {len(times)} frames, median {statistics.median(times):.1f} ms, 95 % "
            f"{times[len(times) * 95 // 100]:.1f} ms, worst {times[-1]:.1f} ms, {late} above 50; "
            f"long tasks {len(tasks)}, longest {max(tasks, default=0):.0f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    given: Any = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ps-bench-"))
    driver = Driver(directory / "chromium")
    try:
        with containers(given.containers) as top:
            monitor = RunningMonitor(directory, "--root", top, "--dynamic=false").start()
            try:
                until(lambda: len(monitor.own("groups", containers=1)) == given.containers)
                driver.screen(1280)
                driver.tools("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
                report(driver, f"http://127.0.0.1:{monitor.port}/docker/", given.rounds)
            finally:
                driver.open("about:blank")
                monitor.stop()
    finally:
        driver.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
