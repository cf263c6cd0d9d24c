"""``create``, ``run``, ``exec`` as the command line says them."""

from __future__ import annotations

import os

from portside.runtime.oci import bundle as creating
from portside.runtime.oci import start_delete
from portside.runtime.oci.arguments import Context, Options
from portside.runtime.oci.foreground import attend, pass_signals


def _wanted(context: Context, options: Options, detach: bool) -> creating.Wanted:
    return creating.Wanted(
        root=context.root,
        id=options.operand(),
        bundle=options.text("bundle") or os.getcwd(),
        pid_file=options.text("pid-file"),
        console_socket=options.text("console-socket"),
        pidfd_socket=options.text("pidfd-socket"),
        preserve_fds=options.preserved() + listening(),
        listen_fds=listening(),
        detach=detach,
        keyring=not options.flag("no-new-keyring"),
        systemd=context.systemd,
        no_pivot=options.flag("no-pivot"),
    )


def listening() -> int:
    """How many sockets systemd's activation handed over to us (sd_listen_fds(3))."""
    listen = os.environ.get("LISTEN_FDS", "")
    return int(listen) if listen.isdecimal() else 0


def create(context: Context, options: Options) -> int:
    creating.create(_wanted(context, options, detach=True))
    return 0


def run(context: Context, options: Options) -> int:
    """Create and start; in the foreground also wait and delete."""
    detach = options.flag("detach")
    wanted = _wanted(context, options, detach)
    child = creating.create(wanted)
    try:
        if not detach:
            pass_signals(child)
        start_delete.start(context.root, wanted.id)
        if detach:
            return 0
        code = attend(child)
    except BaseException:
        start_delete.delete(context.root, wanted.id, force=True)
        raise
    if not options.flag("keep"):
        start_delete.delete(context.root, wanted.id, force=True)
    return code


def exec_(context: Context, options: Options) -> int:
    from portside.runtime.oci import exec_process  # the other verbs start without it

    return exec_process.run(context.root, options)
