"""Handing a seccomp notification descriptor to the agent that decides (config-linux.md, "The
Container Process State"): one message on the profile's ``listenerPath``, with the descriptor.
"""

from __future__ import annotations

import os

import msgspec

from portside.kernel import c_socket as socket
from portside.model.errors import SystemFailure
from portside.model.ociruntime import Seccomp, State
from portside.model.spec_version import SPEC_VERSION


class ProcessState(msgspec.Struct, rename="camel", omit_defaults=True):
    """``containerProcessState``."""

    oci_version: str
    fds: tuple[str, ...]
    pid: int
    state: State
    metadata: str = ""


def hand_over(profile: Seccomp, fd: int, pid: int, state: State) -> None:
    """Send the descriptor and close it. Raises SystemFailure when nobody listens."""
    process_state = ProcessState(
        SPEC_VERSION, ("seccompFd",), pid, state, profile.listener_metadata
    )
    with socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.connect(profile.listener_path)
            socket.send_fds(agent, [msgspec.json.encode(process_state)], [fd])
        except OSError as err:
            raise SystemFailure(
                f"seccomp: the listener {profile.listener_path} cannot be reached: {err.strerror}"
            ) from err
        finally:
            os.close(fd)
