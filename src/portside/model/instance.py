"""Which engine this is: several may run on one machine, each on a data root of its own.

Everything an engine makes outside its own directories (bridges, cgroups, firewall
tables) carries the instance's suffix, so that engines never touch each other's things.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from portside.model.paths import DEFAULT_DATA_ROOT as DEFAULT_DATA_ROOT
from portside.model.paths import DEFAULT_EXEC_ROOT as DEFAULT_EXEC_ROOT
from portside.model.paths import DEFAULT_SOCKET as DEFAULT_SOCKET


@dataclass(frozen=True, slots=True)
class Instance:
    """Names derived from the engine's two directories.

    ``suffix`` is empty for the default data root, else eight hexadecimal digits.
    """

    data_root: Path
    exec_root: Path
    suffix: str

    @classmethod
    def of(cls, data_root: str | Path, exec_root: str | Path) -> Instance:
        root = Path(data_root)
        default = str(root) == DEFAULT_DATA_ROOT
        suffix = "" if default else hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return cls(root, Path(exec_root), suffix)

    @property
    def bridge(self) -> str:
        """Name of the default bridge; at most 15 characters (IFNAMSIZ - 1)."""
        return f"ps{self.suffix}0" if self.suffix else "portside0"

    @property
    def cgroup(self) -> str:
        """Default cgroup parent, relative to each hierarchy's root."""
        return f"/portside-{self.suffix}" if self.suffix else "/portside"

    @property
    def monitors_cgroup(self) -> str:
        """Where the launcher and the monitors of containers live, apart from the engine's service:
        what ends all of a service's processes does not end containers. Nor is it a part of
        :attr:`cgroup`, whose processor time containers may use up."""
        return f"{self.cgroup}-monitors"

    @property
    def table(self) -> str:
        """Name of the engine's own nftables tables."""
        return f"portside_{self.suffix}" if self.suffix else "portside"

    def link(self, identifier: str) -> str:
        """Name of a host-side link for an object's hexadecimal identifier (IFNAMSIZ - 1)."""
        return f"ps{self.suffix[:4]}{identifier[:9]}" if self.suffix else f"ps{identifier[:11]}"
