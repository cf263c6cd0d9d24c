"""A log receiver of one's own: print what containers log with the syslog driver.

    python examples/receive_logs.py /tmp/logs.sock 2 &
    portside run --log-driver syslog --log-opt syslog-address=unixgram:///tmp/logs.sock \\
        --log-opt tag='{{.Name}}' portside/base echo hello

Each line is one datagram (RFC 3164), sent by the container's own monitor, so receiving does not
depend on the engine. Ends after as many lines as the second argument says.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

LINE = re.compile(r"<(?P<priority>\d+)>.*? (?P<tag>[^ \[]+)\[\d+\]: (?P<text>.*)", re.DOTALL)


def main(path: Path, lines: int) -> int:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        print("listening", flush=True)
        for _ in range(lines):
            data = receiver.recv(65536).decode(errors="replace")
            found = LINE.fullmatch(data.rstrip("\n"))
            if found:
                error = int(found["priority"]) & 7 == 3  # severity "err": standard error
                print(f"{found['tag']} {'error' if error else 'output'}: {found['text']}")
    path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
