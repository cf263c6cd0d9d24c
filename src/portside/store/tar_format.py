"""The tar format: headers of V7, ustar, GNU and PAX, read and written as bytes.

References: POSIX.1-2017 pax, "pax Interchange Format" and "ustar Interchange Format"; GNU tar's
manual, "Basic Tar Format" and "Storing Sparse Files". Names are bytes: tar has no encoding.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from zlib import adler32

from portside.model.errors import InvalidParameter

BLOCK = 512

REGTYPE, AREGTYPE, LNKTYPE, SYMTYPE, CHRTYPE, BLKTYPE, DIRTYPE, FIFOTYPE, CONTTYPE = (
    b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7",
)  # fmt: skip
GNU_LONGNAME, GNU_LONGLINK, GNU_SPARSE = b"L", b"K", b"S"
PAX_NEXT, PAX_GLOBAL = b"x", b"g"

HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
"""name mode uid gid size mtime chksum type linkname magic uname gname major minor prefix"""

XATTR = b"SCHILY.xattr."
XATTR_LIBARCHIVE = b"LIBARCHIVE.xattr."

Extent = tuple[int, int]
"""Offset and length of data in a sparse file, in bytes."""


class Malformed(InvalidParameter):
    """The archive is not a tar, is damaged, or breaks a rule of the format."""


@dataclass(slots=True)
class Entry:
    """One member of an archive."""

    name: bytes
    type: bytes
    """One of the type flags above; regular files are always ``REGTYPE``."""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Bytes of the file's content, holes included."""
    mtime: int = 0
    """Nanoseconds since the epoch."""
    linkname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    stored: int = -1
    """Bytes of data that follow in the archive; ``size`` when -1."""
    extents: list[Extent] | None = None
    """Where the stored data goes, for a sparse file."""
    atime: int | None = None
    uname: bytes = b""
    gname: bytes = b""

    @property
    def data_size(self) -> int:
        return self.size if self.stored < 0 else self.stored


def parse_number(text: bytes) -> int:
    """A header's number: octal text, or big-endian base 256 when its first bit is set."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") & ((1 << (8 * len(text) - 1)) - 1)
        if text[0] & 0x40:  # negative, two's complement
            value -= 1 << (8 * len(text) - 1)
        return value
    digits = text.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise Malformed(
            f"malformed archive: invalid tar header: {text!r} is not an octal number"
        ) from None


def parse_header(block: bytes) -> Entry:
    """A 512-byte header block; Malformed when its checksum is wrong."""
    (name, mode, uid, gid, size, mtime, chksum, kind, linkname, magic, uname, gname, major,
     minor, prefix) = HEADER.unpack(block)  # fmt: skip
    _verify(block, chksum)
    name = name.split(b"\0", 1)[0]
    if magic == b"ustar\x0000" and prefix[0]:  # GNU's magic differs and has no prefix
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    if kind in (AREGTYPE, CONTTYPE):
        kind = DIRTYPE if kind == AREGTYPE and name.endswith(b"/") else REGTYPE
    entry = Entry(
        name,
        kind,
        parse_number(mode) & 0o7777,
        parse_number(uid),
        parse_number(gid),
        parse_number(size),
        parse_number(mtime) * 1_000_000_000,
        linkname.split(b"\0", 1)[0],
    )
    if entry.size < 0:
        raise Malformed(f"malformed archive: {name!r} has a negative size")
    if kind in (CHRTYPE, BLKTYPE):
        entry.major, entry.minor = parse_number(major), parse_number(minor)
    if uname[0] or gname[0]:
        entry.uname, entry.gname = uname.split(b"\0", 1)[0], gname.split(b"\0", 1)[0]
    return entry


def _verify(block: bytes, chksum: bytes) -> None:
    """The sum of all bytes, the checksum's own counted as blanks.

    Adler-32's low half is 1 + that sum modulo 65521, and comes from C; the slow sum decides
    when it disagrees, since some old writers summed signed bytes.
    """
    stored = parse_number(chksum)
    quick = adler32(block) & 0xFFFF
    if (stored + sum(chksum) - 256 + 1) % 65521 == quick:
        return
    rest = block[:148] + b" " * 8 + block[156:]
    if stored not in (sum(rest), sum(b - 256 if b > 127 else b for b in rest)):
        raise Malformed("malformed archive: a header's checksum is wrong")


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records ``length key=value\\n`` of an extended header, in order."""
    records = []
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        length = data[position:blank]
        if blank < 0 or not length.isdigit():
            if not data[position:].strip(b"\0"):
                break
            raise Malformed("malformed archive: a PAX record has no length")
        end = position + int(length)
        if end > len(data) or end <= blank + 1 or data[end - 1] != 0x0A:
            raise Malformed("malformed archive: a PAX record has a wrong length")
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals:
            raise Malformed("malformed archive: a PAX record has no value")
        records.append((key, value))
        position = end
    return records


def parse_time(text: bytes) -> int:
    """PAX's decimal seconds, exactly, as nanoseconds."""
    whole, _, fraction = text.partition(b".")
    try:
        nanoseconds = int((fraction + b"000000000")[:9])
        seconds = int(whole or b"0")
    except ValueError:
        raise Malformed(f"malformed archive: {text!r} is not a time") from None
    sign = -1 if whole.startswith(b"-") else 1
    return seconds * 1_000_000_000 + sign * nanoseconds


def parse_decimal(key: bytes, text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Malformed(f"malformed archive: {key.decode('latin-1')}={text[:32]!r} is not a number")
    return int(text)


# -- writing ---------------------------------------------------------------------------------


def padding(size: int) -> int:
    """Bytes from the end of ``size`` bytes of data to the next block."""
    return -size % BLOCK


def pax_record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, whose length counts itself."""
    size = len(key) + len(value) + 3
    digits = len(str(size))
    if len(str(size + digits)) > digits:
        digits += 1
    return b"%d %s=%s\n" % (size + digits, key, value)


def build(entry: Entry, records: dict[bytes, bytes] | None = None) -> bytes:
    """The header blocks of an entry, the same bytes for the same entry.

    ustar where everything fits, else a PAX header (its keys sorted) before it, which
    ``records`` are added to.
    """
    pax: dict[bytes, bytes] = {}
    if entry.xattrs:
        pax = {XATTR + key: value for key, value in entry.xattrs.items()}
    if records:
        pax.update(records)
    prefix, name = split_name(entry.name)
    if name is None:
        pax[b"path"] = entry.name
        prefix, name = b"", entry.name[:100]
    linkname = entry.linkname
    if len(linkname) > 100:
        pax[b"linkpath"], linkname = linkname, linkname[:100]
    uid, gid, size = entry.uid, entry.gid, entry.data_size
    if uid >= 8**7:
        pax[b"uid"], uid = b"%d" % uid, 0
    if gid >= 8**7:
        pax[b"gid"], gid = b"%d" % gid, 0
    if size >= 8**11:
        pax[b"size"], size = b"%d" % size, 0
    seconds, fraction = divmod(entry.mtime, 1_000_000_000)
    if fraction or not 0 <= seconds < 8**11:
        pax[b"mtime"] = format_time(entry.mtime)
        seconds = seconds if 0 <= seconds < 8**11 else 0
    header = _pack(entry, prefix, name, linkname, (uid, gid, size), seconds)
    if not pax:
        return header
    return _pax_blocks(_records(pax), entry.name) + header


def format_time(nanoseconds: int) -> bytes:
    """Decimal seconds without trailing zeros."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    return (b"%b%d.%09d" % (sign, seconds, fraction)).rstrip(b"0").rstrip(b".")


def split_name(name: bytes) -> tuple[bytes, bytes | None]:
    """ustar's prefix and name; None as the name when it does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, 156)
    if cut <= 0 or not 0 < len(name) - cut - 1 <= 100:
        return b"", None
    return name[:cut], name[cut + 1 :]


def _records(pax: dict[bytes, bytes]) -> bytes:
    if len(pax) == 1:
        return pax_record(*pax.popitem())
    return b"".join(pax_record(key, pax[key]) for key in sorted(pax))


def _pax_blocks(data: bytes, name: bytes) -> bytes:
    short = (b"PaxHeaders/" + name.rstrip(b"/").rpartition(b"/")[2])[:100]
    block = _PAX_HEADER % (short + bytes(100 - len(short)), len(data))
    total = (adler32(block) & 0xFFFF) - 1
    return b"%b%06o\0 %b%b%b" % (block[:148], total, block[156:], data, bytes(-len(data) % BLOCK))


_PAX_HEADER = (
    b"%b" + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" + b"0" * 11 + b"\0" + b" " * 8
    + PAX_NEXT + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
)  # fmt: skip
"""The name and the bytes of records are missing."""
_NAMES = 200
"""Bytes of names up to which the sum of a header's bytes is below 65521: 255 for each of them, and
at most 123 for each of the 110 others that are not zero."""


def _pack(
    entry: Entry, prefix: bytes, name: bytes, link: bytes, numbers: tuple[int, int, int],
    mtime: int,
) -> bytes:  # fmt: skip
    """``numbers``: owner, group, bytes of data."""
    block = HEADER.pack(
        name,
        b"%07o\0" % entry.mode,
        b"%07o\0" % numbers[0],
        b"%07o\0" % numbers[1],
        b"%011o\0" % numbers[2],
        b"%011o\0" % mtime,
        b" " * 8,
        entry.type,
        link,
        b"ustar\x0000",
        entry.uname[:31],
        entry.gname[:31],
        b"%07o\0" % entry.major,
        b"%07o\0" % entry.minor,
        prefix,
    )
    if len(name) + len(link) + len(prefix) + len(entry.uname) + len(entry.gname) <= _NAMES:
        total = (adler32(block) & 0xFFFF) - 1  # 1 + the sum, from C
    else:
        total = sum(block)
    return block[:148] + b"%06o\0 " % total + block[156:]
