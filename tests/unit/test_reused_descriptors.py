"""A descriptor's number is used again at once: nobody may be told what was meant for another."""

from __future__ import annotations

import asyncio
import os
import socket

from portside.networks.portmapper import Publication
from portside.networks.relay import Relays
from portside.runtime.poller import Poller
from portside.runtime.streams import READ


def test_an_event_of_a_closed_descriptor_is_not_the_next_ones() -> None:
    """Two are readable in one turn; what hears of one replaces the other."""
    poller = Poller()
    told: list[str] = []
    pipes = [os.pipe(), os.pipe()]
    reused: list[int] = []

    def replace(other: int) -> None:
        told.append("first")
        poller.drop(other)
        os.close(other)
        reading, writing = os.pipe()  # the lowest free number is the one just closed
        assert reading == other
        reused.extend((reading, writing))
        poller.set(reading, READ, lambda _: told.append("second"))

    for (reading, writing), (other, _) in zip(pipes, reversed(pipes), strict=True):
        os.write(writing, b"x")
        poller.set(reading, READ, lambda _, other=other: replace(other))
    poller.turn(0)
    assert told == ["first"]
    os.write(reused[1], b"x")
    poller.drop(next(r for r, _ in pipes if r != reused[0]))
    poller.turn(0)
    assert told == ["first", "second"]
    poller.close()
    kept = next(r for r, _ in pipes if r != reused[0])
    for fd in (kept, *(writing for _, writing in pipes), *reused):
        os.close(fd)


async def test_a_relay_that_ends_leaves_its_number_to_others() -> None:
    """A listener is closed as soon as its port is given back, and its number used again."""
    loop = asyncio.get_running_loop()
    relays = Relays()
    publication = Publication("tcp", "::", 1, "127.0.0.1", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    relays.open(publication, listener)
    await asyncio.sleep(0)
    number = listener.fileno()
    relays.close(publication)
    listener.close()
    ours, theirs = socket.socketpair()
    assert number in (ours.fileno(), theirs.fileno())
    reading, writing = (ours, theirs) if ours.fileno() == number else (theirs, ours)
    readable = asyncio.Event()
    loop.add_reader(reading.fileno(), readable.set)
    await asyncio.sleep(0)  # whatever the relay has left to do
    writing.send(b"x")
    await asyncio.wait_for(readable.wait(), 5)
    loop.remove_reader(reading.fileno())
    ours.close()
    theirs.close()
