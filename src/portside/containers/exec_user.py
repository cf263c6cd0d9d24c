"""The user of an exec, looked up in the running container before the exec is made.

The container's passwd and group are hostile files, on file systems that may never answer
(FUSE): a job process reads them, beneath the descriptor of the container's root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import User
from portside.runtime import privileges
from portside.runtime.messages import Identity
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from portside.containers.core import Core

_WITHIN = 10.0
"""Seconds that reading two small files may take."""


class LookUpUser(Job, kw_only=True):
    """Look ``user`` (``NAME|UID[:GROUP|GID]``) up in the root of the process ``pid``; raises
    InvalidParameter in Docker's words when it is not there, NotRunning."""

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    user: str
    pid: int

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        from portside.store.roots import open_root

        root = open_root(self.pid)
        try:
            privileges.resolve(User(0, 0), Identity(self.user, ()), root)
        except SystemFailure as err:
            raise InvalidParameter(str(err)) from None


async def check_user(core: Core, pid: int, user: str) -> None:
    """Raises InvalidParameter for a user or group that the running container does not have.

    Numbers need no file, and are checked here.
    """
    try:
        if not privileges.are_numbers(user):
            async with asyncio.timeout(_WITHIN):
                await core.store.workers.run(LookUpUser(user=user, pid=pid))
    except SystemFailure as err:
        raise InvalidParameter(str(err)) from None
    except TimeoutError:
        raise SystemFailure(
            f"the container's /etc/passwd and /etc/group could not be read within {_WITHIN:g} s: "
            "give the user and group as numbers (UID:GID)"
        ) from None
