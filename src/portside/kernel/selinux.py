"""SELinux (selinux(8)) by its file system, attributes of files and of processes.

The file system is described in Documentation/ABI/stable/sysfs-fs-selinux and the man pages of
libselinux; the contexts for containers in lxc_contexts(5).
"""

from __future__ import annotations

import errno
import os

import msgspec

from portside.kernel.light_stdlib import cache, contextmanager, suppress
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_SYSTEM = "/sys/fs/selinux"
XATTR = "security.selinux"
"""The attribute of a file that holds its label."""
_CONFIG = "/etc/selinux/config"
_CONTEXTS = "/usr/share/containers/selinux/contexts"
"""File of the package container-selinux, read before the policy's own file."""
_TOP = "/etc/selinux"


@cache
def enabled() -> bool:
    """Whether the kernel has SELinux, its file system is mounted, and a policy is loaded.

    A read-only file system means that we are in a container, for which it counts as absent.
    """
    try:
        if os.statvfs(FILE_SYSTEM).f_flag & os.ST_RDONLY:
            return False
        if not os.path.exists(f"{FILE_SYSTEM}/enforce"):
            return False
        with open("/proc/self/attr/current") as file:
            return file.read().rstrip("\0\n") != "kernel"
    except OSError:
        return False


class ContainerContexts(msgspec.Struct, frozen=True):
    """The policy's contexts for containers."""

    process: str
    file: str
    read_only: str
    """Label of files that every container may read and execute: layers of images."""


def container_contexts() -> ContainerContexts | None:
    """The policy's contexts for containers; None when it has none."""
    try:
        text = _text(_CONTEXTS)
    except OSError:
        try:
            text = _text(f"{_TOP}/{_policy_type()}/contexts/lxc_contexts")
        except OSError:
            return None
    found = parse_contexts(text)
    process, file = found.get("process", ""), found.get("file", "")
    if not process or not file:
        return None
    return ContainerContexts(process, file, found.get("ro_file") or file)


def parse_contexts(text: str) -> dict[str, str]:
    """``name = "context"`` lines; ``#`` and ``;`` begin comments."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and line.strip()[:1] not in ("#", ";"):
            found[name.strip()] = value.strip().strip('"')
    return found


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _policy_type() -> str:
    """``SELINUXTYPE`` of /etc/selinux/config (selinux_config(5))."""
    with suppress(OSError):
        for line in _text(_CONFIG).splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "SELINUXTYPE" and "/" not in value and value.strip(". "):
                return value.strip()
    return "targeted"


def check(label: str) -> None:
    """Raise SystemFailure for a label that the policy does not know."""
    try:
        fd = os.open(f"{FILE_SYSTEM}/context", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(fd, label.encode() + b"\0")
        finally:
            os.close(fd)
    except OSError as err:
        if err.errno != errno.EINVAL:
            return  # not permitted: the kernel reports an error when the label is used
        raise SystemFailure(
            f"cannot apply the SELinux label {label!r}: the policy does not know it"
        ) from err


def label_of(path: str) -> str:
    """The label of a file itself, empty where there is none."""
    try:
        return os.getxattr(path, XATTR, follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return ""


def set_label(path: str, label: str) -> None:
    """Label a file itself, links not followed. File systems without labels are passed over, and
    files that have gone; OSError."""
    try:
        os.setxattr(path, XATTR, label.encode() + b"\0", follow_symlinks=False)
    except OSError as err:
        if err.errno not in (errno.ENOTSUP, errno.ENOENT):
            raise


def set_label_of(fd: int, label: str) -> None:
    """:func:`set_label` of what a descriptor (O_PATH too) stands for, a link excepted."""
    with suppress(FileNotFoundError):
        try:
            os.setxattr(f"/proc/self/fd/{fd}", XATTR, label.encode() + b"\0")
        except OSError as err:
            if err.errno != errno.ENOTSUP:
                raise


@contextmanager
def created_keys(fd: int, label: str) -> Iterator[None]:
    """Keys that this thread makes meanwhile get a label (keyrings(7)). ``fd``: its
    ``attr/keycreate``, or -1 for no label."""
    if fd < 0:
        yield
        return
    os.write(fd, label.encode())
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(fd, b"")
