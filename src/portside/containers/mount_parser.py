"""Reading ``-v``, ``--mount``, ``--volumes-from``, ``--tmpfs`` and ``VOLUME``, with Docker's rules
and texts."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

import msgspec

from portside.containers import mounts
from portside.containers.mounts import MountPoints, is_around
from portside.containers.record import MountPoint
from portside.containers.spec.oci_mounts import tmpfs_options
from portside.model.container import ContainerConfig, HostConfig, MountRequest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.volume import VolumeCreate

if TYPE_CHECKING:
    from portside.containers.core import Core


_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_SUBJECTS = {
    **dict.fromkeys(("ro", "rw", "rro"), "access"),
    **dict.fromkeys(_PROPAGATIONS, "propagation"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(("consistent", "cached", "delegated", "default"), "consistency"),
    "nocopy": "copy",
    "idmap": "owners",
}
"""Subject of a word in ``-v``'s third part; each subject is allowed once."""

_FOREIGN = {
    "bind": ("volume_options", "image_options"),
    "volume": ("bind_options", "image_options"),
    "tmpfs": ("bind_options", "image_options"),
    "image": ("bind_options", "volume_options"),
}
"""Options of other kinds of mounts, which a kind refuses."""


class MountParser:
    """Reads the mounts that a container is asked to have."""

    def __init__(self, core: Core, config: ContainerConfig, host: HostConfig) -> None:
        self._core, self._config, self._host = core, config, host
        self._points: dict[str, MountPoint] = {}
        self._requests: dict[str, VolumeCreate] = {}

    def parse(self, read_only_non_recursive: bool = False) -> MountPoints:
        """All mounts; raises InvalidParameter, NotFound."""
        own: set[str] = set()
        for inherited in self._host.volumes_from or ():
            self._inherit(inherited)
        for text in self._host.binds or ():
            self._add(self._bind(text), own)
        for request in self._host.mounts or ():
            self._add(self._mount(request), own)
        for point in [self._points[name] for name in own] if read_only_non_recursive else ():
            if point.type == "bind" and not point.rw:
                self._points[point.destination] = msgspec.structs.replace(
                    point, read_only_non_recursive=True
                )
        for target in self._host.tmpfs or {}:
            if clean(target) in own:
                raise InvalidParameter(f"Duplicate mount point: {target}")
            self._points.pop(clean(target), None)
        for target in self._config.volumes or {}:
            self._image_volume(target)
        return MountPoints(self._core, list(self._points.values()), self._requests)

    def _add(self, point: MountPoint, own: set[str]) -> None:
        if point.destination in own:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        own.add(point.destination)
        self._points[point.destination] = point

    def _inherit(self, text: str) -> None:
        """``--volumes-from CONTAINER[:ro|:rw]``."""
        name, _, mode = text.partition(":")
        if not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        if mode and any(word not in ("ro", "rw", "z", "Z") for word in mode.split(",")):
            raise InvalidParameter(f"invalid mode: {mode}")
        read_only = "ro" in mode.split(",")
        try:
            other = self._core.find(name)
        except NotFound as err:  # 404 would mean that the image is missing
            raise InvalidParameter(str(err)) from err
        for point in other.record.mounts:
            if point.type == "tmpfs":
                continue
            copy = msgspec.structs.replace(
                point, rw=point.rw and not read_only, no_copy=True, mode=""
            )
            self._points[point.destination] = copy
            if point.type == "volume":
                self._requests[point.destination] = VolumeCreate(name=point.name)

    def _image_volume(self, target: str) -> None:
        """``VOLUME`` of the image, or ``-v /path``: an anonymous volume."""
        destination = clean(target)  # a relative one is beneath the root
        if destination in self._points or destination in map(clean, self._host.tmpfs or {}):
            return
        _check_destination(destination, target)
        self._points[destination] = self._volume(
            MountPoint(type="volume", destination=destination, anonymous=True),
            VolumeCreate(name="", driver=self._host.volume_driver or "local"),
        )

    # -- -v ------------------------------------------------------------------------------

    def _bind(self, text: str) -> MountPoint:
        parts = text.split(":")
        if len(parts) > 3 or not all(parts[:2]):
            raise InvalidParameter(f"invalid volume specification: '{text}'")
        if len(parts) == 1:
            parts = ["", *parts]
        source, destination, mode = (*parts, "")[:3]
        if not destination.startswith("/"):
            raise InvalidParameter(
                f"invalid volume specification: '{text}': invalid mount config for type "
                f'"{"bind" if source.startswith("/") else "volume"}": invalid mount path: '
                f"'{destination}' mount path must be absolute"
            )
        destination = clean(destination)
        _check_destination(destination, text)
        point = _with_mode(MountPoint(type="bind", destination=destination, mode=mode), mode)
        if source.startswith("/"):
            if point.no_copy:
                raise InvalidParameter(_extra(text, "bind", "VolumeOptions"))
            return msgspec.structs.replace(
                point, source=clean(source), create_source=True,
                propagation=self._propagation(clean(source), point.propagation))  # fmt: skip
        if source.startswith((".", "~")) or "/" in source:
            raise InvalidParameter(
                f'create {source}: "{source}" includes invalid characters for a local volume '
                'name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a '
                "host directory, use absolute path"
            )
        if point.propagation:
            raise InvalidParameter(_extra(text, "volume", "BindOptions"))
        request = VolumeCreate(name=source, driver=self._host.volume_driver or "local")
        if not mode:
            point = msgspec.structs.replace(point, mode="z")
        return self._volume(
            msgspec.structs.replace(point, type="volume", anonymous=not source), request
        )

    def _propagation(self, source: str, wanted: str) -> str:
        """Mount propagation between the host and a bind mount.

        Around the data root it is ``rslave``: a private copy would hold the mounts of other
        containers and volumes after they have ended, as in Docker.
        """
        root = str(self._core.instance.data_root)
        if not is_around(source, root):
            return wanted or "rprivate"
        if wanted not in ("", "rslave", "rshared"):
            raise InvalidParameter(
                'invalid mount config: must use either propagation mode "rslave" or "rshared" '
                f'when mount source is within the daemon root, daemon root: "{root}", '
                f'bind mount source: "{source}", propagation: "{wanted}"'
            )
        return wanted or "rslave"

    def _volume(self, point: MountPoint, request: VolumeCreate) -> MountPoint:
        self._requests[point.destination] = request
        return point

    # -- --mount -------------------------------------------------------------------------

    def _mount(self, request: MountRequest) -> MountPoint:
        prefix = f'invalid mount config for type "{request.type}": '
        if not request.target:
            raise InvalidParameter(f"{prefix}field Target must not be empty")
        if not request.target.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{request.target}' mount path must be absolute"
            )
        destination = clean(request.target)
        if destination == "/":
            raise InvalidParameter(f"{prefix}invalid specification: destination can't be '/'")
        if request.type not in _FOREIGN:
            raise InvalidParameter(f"{prefix}mount type unknown")
        for name in _FOREIGN[request.type]:
            if getattr(request, name) is not None:
                field = "".join(word.title() for word in name.split("_"))
                raise InvalidParameter(f"{prefix}field {field} must not be specified")
        point = MountPoint(type=request.type, destination=destination, rw=not request.read_only)
        make = {"bind": self._mount_bind, "volume": self._mount_volume,
                "tmpfs": self._mount_tmpfs, "image": self._mount_image}  # fmt: skip
        return make[request.type](request, point, prefix)

    def _mount_bind(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if not request.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        if not request.source.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{request.source}' mount path must be absolute"
            )
        options = request.bind_options
        create = bool(options and options.create_mountpoint)
        if not create and not os.path.lexists(request.source):
            raise InvalidParameter(f"{prefix}bind source path does not exist: {request.source}")
        propagation = options.propagation if options else ""
        if propagation and propagation not in _PROPAGATIONS:
            raise InvalidParameter(f"{prefix}invalid propagation mode: {propagation}")
        return msgspec.structs.replace(
            point,
            source=clean(request.source),
            create_source=create,
            propagation=self._propagation(clean(request.source), propagation),
            non_recursive=bool(options and options.non_recursive),
            read_only_non_recursive=bool(options and options.read_only_non_recursive),
            read_only_force_recursive=bool(options and options.read_only_force_recursive),
            idmap=mounts.check_idmap(options.idmap) if options else "",
        )

    def _mount_volume(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        options = request.volume_options
        driver = options.driver_config if options else None
        if not request.source and options and options.subpath:
            raise InvalidParameter(f"{prefix}must not set Subpath when using anonymous volumes")
        if not request.source and request.read_only:
            raise InvalidParameter(
                f"{prefix}must not set ReadOnly mode when using anonymous volumes"
            )
        if options:
            _check_subpath(options.subpath, prefix)
        volume = VolumeCreate(
            name=request.source,
            driver=(driver.name if driver else "") or "local",
            driver_opts=driver.options if driver else None,
            labels=options.labels if options else None,
        )
        point = msgspec.structs.replace(
            point, mode="z", anonymous=not request.source,
            no_copy=bool(options and options.no_copy),
            subpath=options.subpath if options else "")  # fmt: skip
        return self._volume(point, volume)

    def _mount_tmpfs(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if request.source:
            raise InvalidParameter(f"{prefix}field Source must not be specified")
        words = []
        if request.tmpfs_options is not None:
            if request.tmpfs_options.size_bytes:
                words.append(f"size={request.tmpfs_options.size_bytes}")
            if request.tmpfs_options.mode:
                words.append(f"mode={request.tmpfs_options.mode:o}")
            words += ["=".join(pair) for pair in request.tmpfs_options.options or ()]
        if not point.rw:
            words.append("ro")
        return msgspec.structs.replace(point, tmpfs=tmpfs_options(",".join(words)))

    def _mount_image(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if not request.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        subpath = request.image_options.subpath if request.image_options else ""
        _check_subpath(subpath, prefix)
        try:
            image = self._core.images.get(request.source)
        except NotFound as err:
            raise InvalidParameter(f"{prefix}{err}") from err
        return msgspec.structs.replace(
            point,
            source=image.id,
            name=request.source,
            rw=False,
            subpath=subpath,
            chain=str(image.chain or ""),
        )


def clean(path: str) -> str:
    """A normal absolute path."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _check_destination(destination: str, text: str) -> None:
    if destination == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type "
            "\"bind\": invalid specification: destination can't be '/'"
        )


def _extra(text: str, kind: str, field: str) -> str:
    return (
        f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
        f"field {field} must not be specified"
    )


def _check_subpath(subpath: str, prefix: str) -> None:
    """Docker's ``filepath.IsLocal``: relative, and never above where it begins."""
    if subpath.startswith("/") or posixpath.normpath(subpath or ".").split("/")[0] == "..":
        raise InvalidParameter(f"{prefix}subpath must be a relative path within the volume")


def _with_mode(point: MountPoint, mode: str) -> MountPoint:
    """The third part of ``-v``: comma-separated words."""
    seen: set[str] = set()
    for word in mode.split(",") if mode else ():
        subject = _SUBJECTS.get(word.partition("=")[0] if word.startswith("idmap=") else word)
        if subject is None or subject in seen:
            raise InvalidParameter(f"invalid mode: {mode}")
        seen.add(subject)
        if subject == "access":
            point = msgspec.structs.replace(point, rw=word == "rw")
        elif subject == "propagation":
            point = msgspec.structs.replace(point, propagation=word)
        elif subject == "copy":
            point = msgspec.structs.replace(point, no_copy=True)
        elif subject == "owners":
            idmap = mounts.check_idmap(word.partition("=")[2] or "auto")
            point = msgspec.structs.replace(point, idmap=idmap)
    return point
