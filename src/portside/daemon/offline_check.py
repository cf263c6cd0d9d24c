"""``portside system check --offline``: look at a data root, or repair it, while no engine runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from portside.model.errors import PortsideError
from portside.model.paths import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT

USAGE = """Usage:  portside system check --offline [OPTIONS]

Look at a data root while no engine runs; nothing is changed without --repair

Options:
      --data-root string   Root directory of persistent state (default "%s")
      --exec-root string   Root directory for execution state files (default "%s")
      --repair             Make the metadata from the newest good copy and what is there
""" % (DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT)  # noqa: UP031


def main(arguments: Sequence[str]) -> int:
    """Run it; 0 when the root is fit for an engine, 1 when it is not, 125 for a wrong call."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--data-root", default=DEFAULT_DATA_ROOT)
    parser.add_argument("--exec-root", default=DEFAULT_EXEC_ROOT)
    options, unknown = parser.parse_known_args(arguments)
    if options.help:
        print(USAGE, end="")
        return 0
    if unknown:
        print(f"unknown flag or argument: {unknown[0]}\n\n{USAGE}", end="", file=sys.stderr)
        return 125
    return _run(Path(options.data_root), Path(options.exec_root), options.repair)


def _run(root: Path, exec_root: Path, repair: bool) -> int:
    from portside.engine import rebuild

    os.umask(0o077)
    spill = exec_root / "metadata.db"
    try:
        if not root.is_dir():
            print(f"{root} is not a directory", file=sys.stderr)
            return 1
        if not repair:
            return 0 if rebuild.look(root, spill, print) else 1
        rebuild.rebuild(root, spill, print)
    except PortsideError as err:
        print(err, file=sys.stderr)
        return 1
    except OSError as err:
        print(f"{err.filename or root}: {err.strerror}", file=sys.stderr)
        return 1
    return 0
