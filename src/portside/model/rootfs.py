"""A container's root file system as one value: storage emits it, the runtime mounts it."""

from __future__ import annotations

import msgspec

from portside.model.idmap import IDMappings
from portside.model.ociruntime import IDMapping


class Rootfs(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the root is put together, in the container's own mount namespace.

    With ``driver`` ``overlay``: ``lower`` are directories topmost first, ``upper`` and
    ``work`` the writable pair (both empty for a read-only view). With ``driver`` ``bind``
    (the vfs fallback, or a bundle's own root): ``upper`` alone is the directory.
    """

    driver: str
    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()
    """Further overlay options such as ``userxattr`` or ``index=off``."""
    uid_mappings: tuple[IDMapping, ...] = ()
    """Show the files' owners moved so (idmapped layers, Linux 5.19), as disk's to host's."""
    gid_mappings: tuple[IDMapping, ...] = ()
    stored_uids: tuple[IDMapping, ...] = ()
    """The files are a copy with the host's identifiers on the disk, by these mappings from the
    container's; without idmapped mounts."""
    stored_gids: tuple[IDMapping, ...] = ()

    def mapped(self, mappings: IDMappings) -> Rootfs:
        """The same, with its owners shown moved by the mappings."""
        return msgspec.structs.replace(self, uid_mappings=mappings.uids, gid_mappings=mappings.gids)
