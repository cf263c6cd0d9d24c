"""Frames between ``portside build`` and the engine once ``POST /portside/build`` is
upgraded: frames on one connection.

A frame is a head of nine bytes (length of the payload, kind, channel; big-endian) and a payload.
The engine asks (``ASK``: a JSON object, on a channel of its own) for what it needs of the client:
a secret, credentials, a context, an agent, a terminal, a place for output. Data of both sides
follow on that channel, until one of them ends (``END``) or refuses (``REFUSE``, with a reason).

On a unix socket the client's first frame (``HELLO``) carries the contexts' open directories as
descriptors (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

from portside.model.errors import InvalidText

PROTOCOL = "portside-build"
"""In ``Upgrade``."""

HELLO, DATA, END, REFUSE, RESIZE = b"h", b"d", b"e", b"x", b"z"
"""By the client (DATA, END and REFUSE by both)."""
ASK, EVENT, RESULT = b"a", b"v", b"r"
"""By the engine."""

HEAD = 9
MAX_PAYLOAD = 1 << 20
"""Bytes of a frame's payload."""
PIECE = 256 << 10
"""Bytes of data sent in one frame."""
MAX_FDS = 32
"""Open directories that come with one build."""


class BadFrame(InvalidText):
    """The peer does not speak this protocol."""


def frame(kind: bytes, channel: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return len(payload).to_bytes(4, "big") + kind + channel.to_bytes(4, "big") + payload


def parse_head(head: bytes) -> tuple[int, bytes, int]:
    """Length of the payload, kind and channel. BadFrame for one that is too long."""
    size = int.from_bytes(head[:4], "big")
    if size > MAX_PAYLOAD:
        raise BadFrame(f"a frame of {size} bytes: at most {MAX_PAYLOAD} are accepted")
    return size, head[4:5], int.from_bytes(head[5:9], "big")
