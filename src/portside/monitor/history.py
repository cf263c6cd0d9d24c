"""History in memory: full resolution first, then means and maxima, bounded for each group.

A group keeps its samples for :attr:`Limits.full` seconds. Every sample's point is also added
to a bucket of :data:`BUCKET` seconds; buckets are kept for :attr:`Limits.kept` seconds as 32 bit
floats. An hour of one group takes 31 KiB.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from portside.monitor.samples import SERIES, Point, Sample, point

BUCKET = 15
"""Seconds of one bucket."""
_WIDTH = len(SERIES)
MOST_POINTS = 2000
"""Points of one answer."""


class Limits(msgspec.Struct, frozen=True):
    full: float = 120.0
    """Seconds for which every sample is kept."""
    kept: float = 3600.0
    """Seconds for which buckets are kept."""
    most: int = 600
    """Samples of one group at most, whatever their interval."""


class Column(msgspec.Struct, frozen=True):
    """One series: mean and maximum of each interval; None where there was no sample."""

    mean: list[float | None]
    max: list[float | None]


class Chart(msgspec.Struct, frozen=True):
    """Several series over the same times.

    ``times``: where each interval begins, seconds since the epoch; ``step``: its length.
    """

    name: str
    times: list[float]
    step: float
    series: dict[str, Column]


class Bucket(msgspec.Struct, frozen=True):
    """A finished bucket: what is kept on disk."""

    start: int
    """Seconds since the epoch, a multiple of :data:`BUCKET`."""
    mean: Point
    max: Point


class GroupHistory:
    """The history of one group."""

    __slots__ = (
        "_count",
        "_limits",
        "_maxima",
        "_means",
        "_repeated",
        "_repeats",
        "_rests",
        "_start",
        "_starts",
        "_sum",
        "_top",
        "last_point",
        "samples",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.samples: deque[Sample] = deque(maxlen=limits.most)
        self.last_point: Point = (0.0,) * _WIDTH
        self._starts: deque[int] = deque()
        self._means, self._maxima = array("f"), array("f")
        self._start, self._count = 0, 0
        self._rests = False
        """The last point is one of a group in which nothing changed: all rates are 0."""
        self._repeated: Point = ()
        self._repeats = 0
        self._sum = self._top = self.last_point

    @property
    def last(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def add(self, sample: Sample) -> Bucket | None:
        """Keep a sample; the bucket that this one finished, if it did."""
        samples = self.samples
        before = samples[-1] if samples else None
        rests = before is not None and sample.scalars is before.scalars
        if not (rests and self._rests and before is not None and sample.load == before.load):
            self.last_point = point(before, sample)
        self._rests = rests
        found = self.last_point
        samples.append(sample)
        oldest = sample.time_ns - int(self._limits.full * 1e9)
        while samples[0].time_ns < oldest:
            samples.popleft()
        start = sample.time_ns // 1_000_000_000 // BUCKET * BUCKET
        if start == self._start and self._count:
            if found is self._repeated:
                self._repeats += 1
                return None
            self._add_repeated()
            self._repeated = found
            self._sum = tuple([a + b for a, b in zip(self._sum, found, strict=True)])
            self._top = tuple([a if a > b else b for a, b in zip(self._top, found, strict=True)])
            self._count += 1
            return None
        self._add_repeated()
        finished = self._finish()
        self._start, self._count, self._sum, self._top = start, 1, found, found
        return finished

    def _add_repeated(self) -> None:
        """Add the points of an idle group, which are one object, to the sum at once."""
        if self._repeats:
            times = self._repeats
            self._sum = tuple(
                [a + b * times for a, b in zip(self._sum, self._repeated, strict=True)]
            )
            self._count += times
        self._repeats, self._repeated = 0, ()

    def _finish(self) -> Bucket | None:
        if not self._count:
            return None
        mean = tuple(value / self._count for value in self._sum)
        bucket = Bucket(self._start, mean, self._top)
        self._starts.append(self._start)
        self._means.extend(mean)
        self._maxima.extend(self._top)
        most = int(self._limits.kept // BUCKET)
        if len(self._starts) > most + 16:  # cut off several at once
            surplus = len(self._starts) - most
            del self._means[: surplus * _WIDTH]
            del self._maxima[: surplus * _WIDTH]
            for _ in range(surplus):
                self._starts.popleft()
        return bucket

    def buckets(self, since: float) -> Iterator[tuple[float, Sequence[float], Sequence[float]]]:
        """Kept buckets from ``since`` on: start, means, maxima; the unfinished one at last."""
        for number, start in enumerate(self._starts):
            if start >= since - BUCKET:
                part = slice(number * _WIDTH, (number + 1) * _WIDTH)
                yield float(start), self._means[part], self._maxima[part]
        if self._count:
            self._add_repeated()
            mean = tuple(value / self._count for value in self._sum)
            yield float(self._start), mean, self._top

    def lowest(self, number: int) -> float | None:
        """The lowest mean of a series in the kept history; None as long as there is none."""
        return min((mean[number] for _, mean, _ in self.buckets(0)), default=None)

    def points(self, since: float) -> Iterator[tuple[float, Point]]:
        """Points of the samples in full resolution, with their times in seconds."""
        before: Sample | None = None
        for sample in self.samples:
            if before is not None and sample.time_ns / 1e9 >= since:
                yield sample.time_ns / 1e9, point(before, sample)
            before = sample


def chart(
    name: str, history: GroupHistory, now: float, window: float, points: int,
    series: Iterable[str] = SERIES,
    older: Iterable[tuple[float, Sequence[float], Sequence[float]]] = (),
) -> Chart:  # fmt: skip
    """The last ``window`` seconds in at most ``points`` intervals of equal length.

    ``older``: buckets from the disk, before those in memory. Within the full resolution's time
    every sample counts; an interval without a sample holds None (or the last value, when
    the group was looked at less often because it was idle).
    """
    points = max(1, min(points, MOST_POINTS))
    full = window <= history._limits.full
    smallest = 1.0 if full else float(BUCKET)
    step = max(smallest, window / points)
    count = max(1, int(window / step))
    begin = (now // step - count + 1) * step
    numbers = [(wanted, SERIES.index(wanted)) for wanted in series]
    sums = [[0.0] * count for _ in numbers]
    tops: list[list[float | None]] = [[None] * count for _ in numbers]
    seen = [0] * count

    def put(time: float, mean: Sequence[float], top: Sequence[float]) -> None:
        at = int((time - begin) // step)
        if not 0 <= at < count:
            return
        seen[at] += 1
        for row, (_, number) in enumerate(numbers):
            sums[row][at] += mean[number]
            highest = tops[row][at]
            tops[row][at] = top[number] if highest is None else max(highest, top[number])

    if full:
        for time, found in history.points(begin):
            put(time, found, found)
    else:
        for time, mean, top in (*older, *history.buckets(begin)):
            put(time, mean, top)
    columns = {
        wanted: Column(
            [
                total / times if times else None
                for total, times in zip(sums[row], seen, strict=True)
            ],
            tops[row],
        )
        for row, (wanted, _) in enumerate(numbers)
    }
    return Chart(name, [begin + step * number for number in range(count)], step, columns)
