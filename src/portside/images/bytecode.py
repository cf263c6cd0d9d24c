"""Compiles Python files for an image, the same bytes each time.

A program of its own: a new process with a fixed hash seed that compiles in a fixed order gives
the same bytes (sets in constants are ordered by hash, and what is shared depends on what else
the process has loaded). The files carry neither a time nor a size of their source, which is not
in the image: Python takes them as they are (PEP 552, unchecked).

It reads lines of ``SOURCE NUL NAME NUL TARGET`` from standard input; NAME is the path that
tracebacks show.
"""

from __future__ import annotations

import sys


def main() -> None:
    import importlib.util
    import marshal

    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")  # a hash, not checked
    for line in sys.stdin.buffer.read().splitlines():
        source, name, target = (part.decode() for part in line.split(b"\0"))
        with open(source, "rb") as file:
            text = file.read()
        code = compile(text, name, "exec", dont_inherit=True, optimize=0)
        data = head + importlib.util.source_hash(text) + marshal.dumps(code)
        with open(target, "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
