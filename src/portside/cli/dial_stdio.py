"""``system dial-stdio``: joins standard input and output to the engine's socket.

It is the far end of ``ssh://`` addresses, ours and docker's.
"""

from __future__ import annotations

import os
import select

from portside.cli.stream_pump import write_all
from portside.cli.verb import verb
from portside.client.errors import NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options

_PIECE = 1 << 16
_SHUT_WR = 1


@verb("system dial-stdio", about="hidden: Join standard input and output to the engine's socket")
def dial_stdio(session: Session, options: Options, arguments: list[str]) -> None:
    try:
        sock = session.endpoint.connect()
    except NotRunning:
        session.client  # noqa: B018  # starts an engine where that may be done
        sock = session.endpoint.connect()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(sock, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                if data := os.read(0, _PIECE):
                    sock.sendall(data)
                else:
                    poll.unregister(0)
                    sock.shutdown(_SHUT_WR)
            elif data := sock.recv(_PIECE):
                write_all(1, data)
            else:
                return
