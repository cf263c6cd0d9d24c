"""``POST /portside/build``: the connection of ``portside build``.

The request's JSON is checked first; then the connection is upgraded, and the build owns it
with the open directories that come over it. The builder is imported by the first request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portside.api import params
from portside.api.router import Answer, Router
from portside.model.build_frames import PROTOCOL
from portside.model.errors import InvalidParameter, Unavailable
from portside.serving.http.hijack import replay
from portside.serving.http.messages import Request

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()
MAX_SESSIONS = 64
"""Builds at the same time, each with a connection and open directories."""
_sessions: set[asyncio.Task[None]] = set()


@router.add("POST", "/portside/build")
async def build_session(api: Api, request: Request, _: str) -> Answer:
    from portside.builder.session import session_request
    from portside.builder.session.session_build import SessionBuild

    if request.header("upgrade") != PROTOCOL:
        raise InvalidParameter(f"this request must be upgraded to {PROTOCOL}")
    wanted = await params.json(request, session_request.SessionRequest)
    session_request.check(wanted)
    if len(_sessions) >= MAX_SESSIONS:
        raise Unavailable(f"{MAX_SESSIONS} builds are running: try again later")
    service = api.engine.builder()
    head = f"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    sock = replay(request.hijack(head.encode()))
    build = SessionBuild(
        service, wanted, sock, service.exec_root, lambda: api.engine.grpc().frontends
    )
    task = asyncio.get_running_loop().create_task(build.run())
    _sessions.add(task)
    task.add_done_callback(_sessions.discard)
    return None
