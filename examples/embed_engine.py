"""Embed the engine: run one container from a Python program, without a daemon and a socket.

    sudo python examples/embed_engine.py /tmp/embedded echo hello

The engine's directories are made below the one that is given. A program that embeds the engine is
its only user: the data root is locked while it runs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from portside.containers.create import CreateOptions, create_container
from portside.containers.exit import wait_container
from portside.containers.log_reader import LogsOptions, open_logs
from portside.containers.remove import remove_container
from portside.containers.start import start_container
from portside.engine.engine import Engine
from portside.engine.options import DaemonOptions
from portside.model.container import CreateRequest
from portside.model.instance import Instance
from portside.runtime.launcher_client import Launcher

BASE = "portside/base"


async def run(engine: Engine, command: tuple[str, ...]) -> int:
    """Run a command in a new container, print its output, remove the container."""
    containers = engine.containers
    request = CreateRequest(image=BASE, cmd=command)
    created = await create_container(containers, CreateOptions("", request))
    container = containers.find(created.id)
    ended = wait_container(container, "next-exit")  # before the start: no exit is missed
    await start_container(containers, container)
    code, _ = await ended
    _, pieces = open_logs(containers, container, LogsOptions())
    async for piece in pieces:
        sys.stdout.write(piece[8:].decode())  # after the frame's head: stream and length
    await remove_container(containers, container)
    return code


async def main(root: Path, command: tuple[str, ...]) -> int:
    for path in (root, root / "data", root / "exec"):
        path.mkdir(mode=0o700, exist_ok=True)
    options = DaemonOptions(data_root=str(root / "data"), exec_root=str(root / "exec"))
    instance = Instance.of(options.data_root, options.exec_root)
    launcher = Launcher.spawn(instance.cgroup, instance.monitors_cgroup)
    engine = await Engine.start(options, instance, launcher)
    try:
        await engine.images.pull(BASE)
        return await run(engine, command)
    finally:
        await engine.close(containers=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), tuple(sys.argv[2:]))))
