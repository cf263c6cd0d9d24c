"""nftables through libnftables(3): whole batches, each one atomic transaction.

``Nft.run`` takes a script in nft(8)'s own language; either all of it takes effect or
nothing. ``Monitor`` tells when a table was changed by somebody else, from the kernel's
own notifications (nfnetlink, group NFNLGRP_NFTABLES).
"""

from __future__ import annotations

import ctypes
import errno
import json
import socket
import struct
from typing import Any

from portside.kernel.netlink import attributes

NFT_CTX_DEFAULT = 0
NFT_CTX_OUTPUT_JSON = 1 << 4
NFT_CTX_OUTPUT_HANDLE = 1 << 1

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWGEN = 0, 2, 15
NFTA_NAME = 1
"""The attribute that names the table: first in every kind of nftables message."""
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1

_LIBRARY = "libnftables.so.1"


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    pointer, string = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", pointer, (ctypes.c_uint32,)),
        ("nft_ctx_free", None, (pointer,)),
        ("nft_ctx_buffer_output", ctypes.c_int, (pointer,)),
        ("nft_ctx_buffer_error", ctypes.c_int, (pointer,)),
        ("nft_ctx_get_output_buffer", string, (pointer,)),
        ("nft_ctx_get_error_buffer", string, (pointer,)),
        ("nft_ctx_output_set_flags", None, (pointer, ctypes.c_uint)),
        ("nft_run_cmd_from_buffer", ctypes.c_int, (pointer, string)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class NftError(OSError):
    """libnftables refused a batch; nothing of it took effect."""


class Nft:
    """A libnftables context. Its netlink socket belongs to the namespace of the thread that
    made it (setns(2)), so the context acts there for good. Not for two threads at once."""

    def __init__(self) -> None:
        """FileNotFoundError when libnftables is not installed."""
        try:
            self._library = _load()
        except OSError as err:
            raise FileNotFoundError(
                errno.ENOENT, "libnftables is missing (Debian package libnftables1)", _LIBRARY
            ) from err
        self._context = self._library.nft_ctx_new(NFT_CTX_DEFAULT)
        if not self._context:
            raise MemoryError("nft_ctx_new")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, script: str) -> str:
        """Run a script as one transaction and return what it prints; NftError."""
        status = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            reason = error.decode(errors="replace").strip()
            raise NftError(errno.EINVAL, f"nftables refused: {reason or 'unknown reason'}")
        text: bytes = output
        return text.decode(errors="replace")

    def list(self, what: str) -> list[dict[str, Any]]:
        """Objects of ``list WHAT`` in libnftables-json(5)'s form, without the metainfo."""
        self._library.nft_ctx_output_set_flags(self._context, NFT_CTX_OUTPUT_JSON)
        try:
            answer = json.loads(self.run(f"list {what}") or '{"nftables": []}')
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return [item for item in answer["nftables"] if "metainfo" not in item]

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None


class Monitor:
    """Notices of changes to one table, told apart by who made them.

    Use ``fileno`` with an event loop and call ``foreign_changes`` when it is readable, and
    also right after each own transaction. The kernel sends notices before the transaction
    returns, with the sender's netlink port, which is learnt from the creation of our own
    table (nobody else creates it).
    """

    def __init__(self, table: str) -> None:
        self._table = table.encode()
        self._own_port = 0
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def foreign_changes(self) -> tuple[bool, bool]:
        """Read all notices: (our table was changed by others, any other table changed)."""
        ours = others = False
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return ours, others
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                ours = others = True  # notices were lost: assume the worst
                continue
            for mine, foreign in self._notices(data):
                ours = ours or mine
                others = others or foreign

    def _notices(self, data: bytes) -> list[tuple[bool, bool]]:
        found = []
        offset = 0
        while offset + 20 <= len(data):
            length, kind, _, _, port = struct.unpack_from("=IHHII", data, offset)
            body = data[offset + 16 : offset + length]
            offset += (length + 3) & ~3
            if kind >> 8 != NFNL_SUBSYS_NFTABLES or kind & 0xFF == NFT_MSG_NEWGEN:
                continue
            name = attributes(body, 4).get(NFTA_NAME, b"").rstrip(b"\0")
            if name != self._table:
                found.append((False, True))
                continue
            if kind & 0xFF == NFT_MSG_NEWTABLE:
                self._own_port = port
            elif port != self._own_port:
                found.append((True, False))
        return found
