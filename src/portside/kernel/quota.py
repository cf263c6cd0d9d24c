"""Project quotas: a limit for a directory and everything made in it (quotactl(2), xfs_quota(8)).

ext4 and XFS have them, when mounted with ``prjquota``. A directory's project is inherited by
what is made in it, and statfs(2) in it reports the limit as the size of the file system.
Whoever has CAP_SYS_RESOURCE may exceed a limit of ext4's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from portside.kernel.libc import syscall

FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FS_XFLAG_PROJINHERIT = 0x200
# <linux/quota.h>: QCMD(Q_SETQUOTA, PRJQUOTA), and which fields of a limit are meant
Q_SETQUOTA_PROJECT = 0x800008 << 8 | 2
QIF_BLIMITS = 1
_FSXATTR = struct.Struct("=5I8x")
"""struct fsxattr: xflags, extsize, nextents, projid, cowextsize."""
_DQBLK = struct.Struct("=8QI4x")
"""struct if_dqblk: hard and soft limit in KiB, use, the same for inodes, times, valid."""


def set_project(directory: int, project: int) -> None:
    """Put a directory, and what will be made in it, into a project.

    Raises OSError: ENOTTY or EOPNOTSUPP where the file system has no projects.
    """
    flags, extent, extents, _, cow = _FSXATTR.unpack(
        fcntl.ioctl(directory, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    )
    flags |= FS_XFLAG_PROJINHERIT
    fcntl.ioctl(directory, FS_IOC_FSSETXATTR, _FSXATTR.pack(flags, extent, extents, project, cow))


def set_limit(directory: int, project: int, size: int) -> None:
    """Let a project take ``size`` bytes on the file system of ``directory``; 0: no limit.

    Raises OSError: ESRCH where project quotas are off, ENOSYS before Linux 5.14.
    """
    blocks = -(-size // 1024)
    limit = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, QIF_BLIMITS)
    syscall(
        "quotactl_fd",
        directory,
        Q_SETQUOTA_PROJECT,
        project,
        ctypes.c_char_p(limit),
        about=os.readlink(f"/proc/self/fd/{directory}"),
    )
