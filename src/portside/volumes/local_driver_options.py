"""Options of the ``local`` volume driver: ``type``, ``device``, ``o`` and ``size``.

They are those of mount(8): ``o`` is a comma-separated list of which the general flags become
mount flags and the rest goes to the file system.
"""

from __future__ import annotations

import re

import msgspec

from portside.kernel import mount as mnt
from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.sizes import ram_bytes

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
REQUIRED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
KNOWN = ("type", "o", "device", "size")

FLAGS = {
    "ro": mnt.MS_RDONLY, "nosuid": mnt.MS_NOSUID, "nodev": mnt.MS_NODEV,
    "noexec": mnt.MS_NOEXEC, "sync": 0x10, "mand": 0x40, "dirsync": 0x80,
    "noatime": 0x400, "nodiratime": 0x800, "bind": mnt.MS_BIND,
    "rbind": mnt.MS_BIND | mnt.MS_REC, "relatime": 0x200000, "strictatime": 0x1000000,
    "private": mnt.MS_PRIVATE, "rprivate": mnt.MS_PRIVATE | mnt.MS_REC,
    "shared": mnt.MS_SHARED, "rshared": mnt.MS_SHARED | mnt.MS_REC,
    "slave": mnt.MS_SLAVE, "rslave": mnt.MS_SLAVE | mnt.MS_REC,
    "unbindable": mnt.MS_UNBINDABLE, "runbindable": mnt.MS_UNBINDABLE | mnt.MS_REC,
}  # fmt: skip
"""Names of mount(8)'s general options (<linux/mount.h>)."""
NO_FLAGS = frozenset(
    ("defaults", "rw", "suid", "dev", "exec", "async", "atime", "diratime", "nomand", "auto",
     "noauto", "user", "nouser", "_netdev", "nofail")
)  # fmt: skip
IN_CONTAINER = frozenset(("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime"))
"""Options of a bind volume that the container's own bind mount takes over."""


class MountOptions(msgspec.Struct, frozen=True):
    """What a volume with options mounts."""

    type: str
    device: str
    flags: int
    data: str
    words: tuple[str, ...]
    """``o`` as it was given, in pieces."""

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & mnt.MS_BIND)


def check_name(name: str) -> None:
    """InvalidParameter with Docker's words for a name that cannot be a volume's."""
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two "
            "alphanumeric characters"
        )
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )
    if len(name) > 255:
        raise InvalidParameter(f"create {name}: volume name is longer than 255 characters")


def parse(name: str, options: dict[str, str]) -> MountOptions | None:
    """The mount that a volume's options describe; None for a plain directory."""
    for key in options:
        if key not in KNOWN:
            raise InvalidParameter(f'create {name}: invalid option: "{key}"')
    for key, needed in REQUIRED.items():
        if key in options:
            for other in needed:
                if other not in options:
                    raise InvalidParameter(f'create {name}: missing required option: "{other}"')
    if "size" in options:
        parse_size(name, options["size"])
    if "device" not in options:
        return None
    words = tuple(word for word in options.get("o", "").split(",") if word)
    flags, data = 0, []
    for word in words:
        if word in FLAGS:
            flags |= FLAGS[word]
        elif word not in NO_FLAGS:
            data.append(word)
    return MountOptions(options["type"], options["device"], flags, ",".join(data), words)


def parse_size(name: str, text: str) -> int:
    """Bytes of the option ``size``: ``10g``, ``1.5GiB``. Raises InvalidParameter."""
    try:
        return ram_bytes(text)
    except InvalidText as err:
        raise InvalidParameter(f"create {name}: {err}") from None
