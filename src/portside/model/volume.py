"""Volumes as the Docker Engine API writes them (``/volumes``)."""

from __future__ import annotations

from typing import Any

import msgspec

ANONYMOUS = "com.docker.volume.anonymous"
"""Label of a volume that was made without a name; plain ``prune`` takes only these."""


class UsageData(msgspec.Struct, frozen=True):
    """Shown by ``system df`` only, since it takes a walk through the files."""

    size: int = msgspec.field(name="Size", default=-1)
    """Bytes; -1 when it is not known (another file system is mounted there)."""
    ref_count: int = msgspec.field(name="RefCount", default=-1)
    """Containers that use it, running or not."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume, in the field order Docker uses."""

    created_at: str = msgspec.field(name="CreatedAt")
    """RFC 3339."""
    driver: str = msgspec.field(name="Driver", default="local")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    mountpoint: str = msgspec.field(name="Mountpoint")
    name: str = msgspec.field(name="Name")
    options: dict[str, str] | None = msgspec.field(name="Options", default=None)
    scope: str = msgspec.field(name="Scope", default="local")
    usage_data: UsageData | msgspec.UnsetType = msgspec.field(
        name="UsageData", default=msgspec.UNSET
    )


class VolumeCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /volumes/create``; without a name an anonymous volume is made."""

    name: str = msgspec.field(name="Name", default="")
    driver: str = msgspec.field(name="Driver", default="local")
    driver_opts: dict[str, str] | None = msgspec.field(name="DriverOpts", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    cluster_volume_spec: Any = msgspec.field(name="ClusterVolumeSpec", default=None)


class VolumeList(msgspec.Struct, frozen=True):
    """Answer of ``GET /volumes``."""

    volumes: list[Volume] = msgspec.field(name="Volumes")
    warnings: list[str] | None = msgspec.field(name="Warnings", default=None)


class VolumePrune(msgspec.Struct, frozen=True):
    """Answer of ``POST /volumes/prune``."""

    deleted: list[str] = msgspec.field(name="VolumesDeleted")
    reclaimed: int = msgspec.field(name="SpaceReclaimed")
    """Bytes."""


class VolumeMount(msgspec.Struct, frozen=True):
    """A volume made ready for a container: bind ``source`` at the container's destination."""

    name: str
    driver: str
    source: str
    """What to bind: a path (of a subpath: where it is bound); valid until
    :meth:`VolumeService.unmount`."""
    mountpoint: str
    """What ``inspect`` shows as the mount's Source."""
    options: tuple[str, ...] = ()
    """Mount options the volume itself asks for, such as ``ro``."""
