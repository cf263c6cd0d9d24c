"""``--on-fail=shell``: this terminal before a shell in the step that has failed."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

from portside.cli import caller_terminal
from portside.cli.stream_pump import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.build.build_connection import Channel
    from portside.cli.build.build_progress import Silent


class Shell:
    """Made in the main thread, which receives SIGWINCH when the terminal's size changes."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        signal.signal(signal.SIGWINCH, self._resized)

    def _resized(self, *_: Any) -> None:
        if self._channel is not None:
            self._channel.resize(*caller_terminal.size())

    def run(self, channel: Channel, progress: Silent | None, step: str, code: int) -> None:
        """Until the shell has ended."""
        if progress is not None:
            progress.suspend()
        sys.stderr.write(
            f"\nThe step {step} failed with status {code}. This is a shell in it; "
            "leave it to end the build.\n"
        )
        sys.stderr.flush()
        self._channel = channel
        done, wake = os.pipe()
        typing = threading.Thread(target=_type, args=(channel, done), daemon=True)
        try:
            with caller_terminal.RawMode(0):
                self._resized()
                typing.start()
                for piece in channel.pieces():
                    write_all(1, piece)
        finally:
            self._channel = None
            os.close(wake)
            typing.join(5)
            os.close(done)
            if progress is not None:
                progress.resume()


def _type(channel: Channel, done: int) -> None:
    """Pass on what is typed until the shell has ended."""
    waiting = select.poll()
    for fd in (0, done):
        waiting.register(fd, select.POLLIN)
    while True:
        if any(fd == done for fd, _ in waiting.poll()):
            return
        data = os.read(0, 4096)
        if not data:
            channel.end()
            return
        channel.send([data])
