"""Commands run in a container after its start and before its stop."""

from __future__ import annotations

from collections.abc import Callable

from portside.client.client import path_of
from portside.client.framed_lines import Lines
from portside.compose.compose_errors import ComposeError
from portside.compose.engine_pool import EnginePool
from portside.compose.observed import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(
    pool: EnginePool, container: Container, hook: dict[str, Any],
    write: Callable[[str], None] | None,
) -> None:  # fmt: skip
    """Run one hook and wait for its end; ``write`` receives the lines that it prints.

    Raises ComposeError when it fails.
    """
    environment = hook.get("environment") or {}
    body = {
        "User": hook.get("user", ""),
        "Privileged": bool(hook.get("privileged")),
        "Env": [name if value is None else f"{name}={value}" for name, value in environment.items()]
        or None,
        "WorkingDir": hook.get("working_dir", ""),
        "Cmd": hook.get("command"),
        "AttachStdout": True,
        "AttachStderr": True,
    }
    with pool.client() as client:
        made = client.post(path_of("containers", container.id, "exec"), body=body)
        path = path_of("exec", made["Id"])
        stream = client.hijack(f"{path}/start", body={"Detach": False, "Tty": False})
        _show(stream, write)
        status = int(client.get(f"{path}/json").get("ExitCode") or 0)
    if status:
        raise ComposeError(f"{container.service} hook exited with status {status}")


def _show(stream: Any, write: Callable[[str], None] | None) -> None:
    """Read to the end; each line is written when it is complete."""
    lines, data = Lines(framed=True), stream.rest
    try:
        while True:
            for text, _ in lines.feed(data):
                if write is not None:
                    write(text)
            data = stream.sock.recv(1 << 16)
            if not data:
                break
        for text, _ in lines.end():
            if write is not None:
                write(text)
    finally:
        stream.sock.close()
