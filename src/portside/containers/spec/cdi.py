"""Device requests (``--gpus``, ``--device vendor.com/class=name``) through the Container
Device Interface.

A vendor describes its devices in files of the directories ``cdi-spec-dirs`` (JSON or YAML,
cncf-tags/container-device-interface SPEC.md): nodes, mounts, variables and hooks a container
needs. Here they are found, checked, and laid over the container's specification::

    DeviceRequest ─► names (kind=device) ─► files ─► Edits ─► inject(Spec)

Of two files that describe the same device, the one in the later directory counts; two in one
directory are an error for those who ask for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from portside.model import ociruntime as oci
from portside.model.container import DeviceRequest
from portside.model.errors import InvalidParameter, SystemFailure

GPU_KINDS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "intel.com/gpu"}
"""By the driver's name that a request may give; without one they are tried in this order."""
_MAX_FILE = 4 << 20
_HOOKS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}


class _Part(msgspec.Struct, rename="camel"):
    """An object of a CDI file; unknown fields are left alone."""


class DeviceNode(_Part):
    """``deviceNodes``: a node that is made in the container; ``host_path`` empty means ``path``."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CDIMount(_Part):
    """``mounts``: a path of the host in the container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class CDIHook(_Part):
    """``hooks``: a program that the runtime calls; ``timeout`` is in seconds."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(_Part):
    """``containerEdits``: what a device changes in a container."""

    env: tuple[str, ...] | None = None
    device_nodes: tuple[DeviceNode, ...] | None = None
    mounts: tuple[CDIMount, ...] | None = None
    hooks: tuple[CDIHook, ...] | None = None
    additional_gids: tuple[int, ...] | None = msgspec.field(name="additionalGids", default=None)


class CDIDevice(_Part):
    """A device of a specification, requested as ``KIND=NAME``."""

    name: str
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, str | bool | int] = {}


class CDISpec(_Part):
    """One file."""

    cdi_version: str
    kind: str
    devices: tuple[CDIDevice, ...] = ()
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, str | bool | int] = {}


@dataclass(slots=True)
class _Found:
    """One device's description and where it is written."""

    file: Path
    general: Edits
    own: Edits
    annotations: dict[str, str]
    """The file's and the device's own, which decide; true is ``"true"``."""
    conflict: Path | None = None


@dataclass(slots=True)
class Registry:
    """All devices of the machine's CDI files."""

    directories: tuple[str, ...]
    devices: dict[str, _Found] = field(default_factory=dict)
    """Devices by qualified name, ``vendor.com/class=name``."""
    broken: dict[Path, str] = field(default_factory=dict)
    """Files that could not be read, and why."""

    @classmethod
    def read(cls, directories: Sequence[str]) -> Registry:
        """Every ``.json`` and ``.yaml`` file of the directories; a missing one is empty."""
        registry = cls(tuple(directories))
        for directory in directories:
            found: dict[str, _Found] = {}
            for path in _files(Path(directory)):
                try:
                    registry._add(path, _load(path), found)
                except (OSError, msgspec.MsgspecError, InvalidParameter) as err:
                    registry.broken[path] = str(err)
            registry.devices |= found
        return registry

    def _add(self, path: Path, spec: CDISpec, found: dict[str, _Found]) -> None:
        if "/" not in spec.kind:
            raise InvalidParameter(f"kind {spec.kind!r} is not vendor/class")
        for device in spec.devices:
            name = f"{spec.kind}={device.name}"
            if name in found:
                found[name].conflict = path
            else:
                notes = {**spec.annotations, **device.annotations}
                found[name] = _Found(
                    path, spec.container_edits, device.container_edits,
                    {key: _note(value) for key, value in notes.items()},
                )  # fmt: skip

    def names(self, kind: str) -> list[str]:
        """The qualified names of a kind's devices, ``all`` left out, numbers in order."""
        prefix = f"{kind}="
        found = [name for name in self.devices if name.startswith(prefix)]
        short = [name for name in found if name != f"{prefix}all"]
        return sorted(short, key=lambda name: (not name[len(prefix) :].isdigit(), len(name), name))

    def edits(self, names: Iterable[str]) -> list[Edits]:
        """The edits of known devices, each file's general ones once. InvalidParameter."""
        found: list[Edits] = []
        files: set[Path] = set()
        for name in dict.fromkeys(names):
            device = self.devices[name]
            if device.conflict is not None:
                raise InvalidParameter(
                    f"CDI device {name} is described by both {device.file} and "
                    f"{device.conflict}: remove one of them"
                )
            if device.file not in files:
                files.add(device.file)
                found.append(device.general)
            found.append(device.own)
        return found

    def where(self) -> str:
        """The directories and what was wrong in them, for an error."""
        text = f"looked in {', '.join(self.directories) or 'no directory (--cdi-spec-dir)'}"
        for path, reason in self.broken.items():
            text += f"; {path} cannot be read: {reason}"
        return text


def _files(directory: Path) -> list[Path]:
    try:
        found = sorted(directory.iterdir())
    except OSError:
        return []
    return [path for path in found if path.suffix in (".json", ".yaml", ".yml")]


def _load(path: Path) -> CDISpec:
    if path.stat().st_size > _MAX_FILE:
        raise InvalidParameter(f"larger than {_MAX_FILE} bytes")
    data = path.read_bytes()
    if path.suffix == ".json":
        return msgspec.json.decode(data, type=CDISpec)
    return msgspec.yaml.decode(data, type=CDISpec)


# -- from requests to names --------------------------------------------------------------------


def resolve(requests: Iterable[DeviceRequest], directories: Sequence[str]) -> list[Edits]:
    """The edits of everything asked for, each file's general ones once.

    Raises InvalidParameter that names the missing piece.
    """
    registry = Registry.read(directories)
    names = [name for request in requests for name in _names(request, registry)]
    missing = [name for name in names if name not in registry.devices]
    if missing:
        raise InvalidParameter(
            f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}: "
            f"{_known(registry, missing[0])}; {registry.where()}"
        )
    return registry.edits(names)


def _note(value: str | bool | int) -> str:
    """An annotation as text; YAML files write ``true`` without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _known(registry: Registry, missing: str) -> str:
    kind = missing.partition("=")[0]
    names = registry.names(kind)
    if names:
        return f"{kind} has {', '.join(name.partition('=')[2] for name in names)}"
    kinds = sorted({name.partition("=")[0] for name in registry.devices})
    return f"no file describes {kind} (known: {', '.join(kinds) or 'nothing'})"


def _names(request: DeviceRequest, registry: Registry) -> list[str]:
    """The qualified names one request stands for."""
    if request.driver == "cdi":
        for name in request.device_ids or ():
            if "/" not in name or "=" not in name:
                raise InvalidParameter(f'invalid CDI device name "{name}": vendor.com/class=name')
        return list(request.device_ids or ())
    kind = _kind(request, registry)
    if request.device_ids:
        if request.count > 0:
            raise InvalidParameter("cannot set both Count and DeviceIDs on device request")
        return [name if "=" in name else f"{kind}={name}" for name in request.device_ids]
    if request.count < 0 and f"{kind}=all" in registry.devices:
        return [f"{kind}=all"]
    names = registry.names(kind)
    if request.count > len(names):
        raise InvalidParameter(
            f"{request.count} devices of {kind} are asked for and {len(names)} are known; "
            f"{registry.where()}"
        )
    return names if request.count < 0 else names[: request.count or 1]


def _kind(request: DeviceRequest, registry: Registry) -> str:
    """Which kind of device a ``--gpus`` means here. Raises InvalidParameter in Docker's words."""
    wanted = {word for group in request.capabilities or () for word in group}
    if "gpu" in wanted or request.driver in GPU_KINDS:
        known = [GPU_KINDS[request.driver]] if request.driver else list(GPU_KINDS.values())
        for kind in known:
            if request.driver in ("", *GPU_KINDS) and registry.names(kind):
                return kind
    groups = " ".join("[" + " ".join(group) + "]" for group in request.capabilities or ())
    advice = (
        "no CDI file describes a GPU of this machine: install the vendor's container toolkit and "
        "let it write one (NVIDIA: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml)"
        if "gpu" in wanted
        else "only gpu, and CDI devices by name (--device vendor.com/class=name), are known"
    )
    raise InvalidParameter(
        f'could not select device driver "{request.driver}" with capabilities: [{groups}]: '
        f"{advice}; {registry.where()}"
    )


# -- into the specification ----------------------------------------------------------------------


def inject(spec: oci.Spec, edits: Iterable[Edits]) -> list[str]:
    """Lay the edits over a specification; further groups of the process, as text."""
    process, linux = spec.process, spec.linux
    assert process is not None and linux is not None and linux.resources is not None
    groups: list[str] = []
    for edit in edits:
        process.env = _environment(process.env, edit.env or ())
        for node in edit.device_nodes or ():
            device, access = _node(node)
            linux.devices = (*(d for d in linux.devices if d.path != device.path), device)
            rule = oci.DeviceCgroup(True, device.type, device.major, device.minor, access)
            linux.resources.devices = (*linux.resources.devices, rule)
        spec.mounts = (*spec.mounts, *map(_mount, edit.mounts or ()))
        for hook in edit.hooks or ():
            _add_hook(spec, hook)
        groups += [str(gid) for gid in edit.additional_gids or () if gid]
    return groups


def _environment(own: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    values = {entry.partition("=")[0]: entry for entry in (*own, *more)}
    return tuple(values.values())


def _node(node: DeviceNode) -> tuple[oci.Device, str]:
    """A node with what its file leaves open taken from the host's own node."""
    host = node.host_path or node.path
    kind, major, minor, mode = node.type, node.major, node.minor, node.file_mode
    if not kind or (not major and kind != "p"):
        try:
            found = Path(host).stat()
        except OSError as err:
            raise SystemFailure(
                f"CDI device injection failed: the device node {host} is not there "
                f"({(err.strerror or '').lower()}): is the driver loaded?"
            ) from err
        kind = kind or ("b" if stat.S_ISBLK(found.st_mode) else "c")
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        mode = stat.S_IMODE(found.st_mode) if mode is None else mode
    device = oci.Device(node.path, kind, major, minor, mode, node.uid, node.gid)
    return device, node.permissions or "rwm"


def _mount(mount: CDIMount) -> oci.Mount:
    if not os.path.lexists(mount.host_path) and mount.type in ("", "bind"):
        raise SystemFailure(
            f"CDI device injection failed: {mount.host_path}, which is to be mounted at "
            f"{mount.container_path}, is not there: was the vendor's software removed or updated "
            "since its CDI file was written?"
        )
    options = mount.options
    if not {"bind", "rbind"} & set(options) and mount.type in ("", "bind"):
        options = ("rbind", *options)
    return oci.Mount(mount.container_path, mount.type or "bind", mount.host_path, options)


def _add_hook(spec: oci.Spec, hook: CDIHook) -> None:
    name = _HOOKS.get(hook.hook_name)
    if name is None:
        raise InvalidParameter(f"CDI device injection failed: unknown hook {hook.hook_name!r}")
    hooks = spec.hooks or oci.Hooks()
    made = oci.Hook(hook.path, hook.args, hook.env, hook.timeout)
    setattr(hooks, name, (*getattr(hooks, name), made))
    spec.hooks = hooks
