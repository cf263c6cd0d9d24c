"""AppArmor and SELinux attributes of a process that is about to be executed.

The attributes are opened while we have root's rights and before a path of the user's is looked
at, and written last: what we execute before (hooks) is not the container's process.
"""

from __future__ import annotations

import os

from portside.kernel import apparmor, selinux
from portside.kernel.light_stdlib import contextmanager
from portside.kernel.process_attributes import open_attribute
from portside.model.errors import SystemFailure
from portside.model.ociruntime import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Confinement:
    """The profile and the label of one process, entered at its next execve(2)."""

    def __init__(self, process: Process) -> None:
        """Opens what will be written. Raises SystemFailure."""
        self.profile, self.label = process.apparmor_profile, process.selinux_label
        if self.profile == apparmor.UNCONFINED or not (self.profile and apparmor.enabled()):
            self.profile = ""
        if not (self.label and selinux.enabled()):
            self.label = ""
        self._apparmor = self._selinux = -1
        if self.profile:
            # of AppArmor's own since Linux 5.1; before, shared with others
            self._apparmor = self._open(self._refused_profile, "apparmor/exec", "exec")
        if self.label:
            self._selinux = self._open(self._refused_label, "exec")

    def _open(self, refused: Callable[[OSError], SystemFailure], *names: str) -> int:
        try:
            return open_attribute(*names)
        except OSError as err:
            raise refused(err) from err

    def _refused_profile(self, err: OSError) -> SystemFailure:
        why = err.strerror if apparmor.is_loaded(self.profile) else "it is not loaded"
        return SystemFailure(f"cannot apply the AppArmor profile {self.profile!r}: {why}")

    def _refused_label(self, err: OSError) -> SystemFailure:
        return SystemFailure(f"cannot apply the SELinux label {self.label!r}: {err.strerror}")

    @contextmanager
    def keys(self) -> Iterator[None]:
        """Keys made meanwhile get the process's label. Raises SystemFailure."""
        if not self.label:
            yield
            return
        try:
            fd = open_attribute("keycreate")
            try:
                with selinux.created_keys(fd, self.label):
                    yield
            finally:
                os.close(fd)
        except OSError as err:
            raise self._refused_label(err) from err

    def enter(self) -> None:
        """Have the calling thread's next execve(2) enter them. Raises SystemFailure."""
        if self._apparmor >= 0:
            self._write(self._apparmor, f"exec {self.profile}", self._refused_profile)
        if self._selinux >= 0:
            self._write(self._selinux, self.label, self._refused_label)

    @staticmethod
    def _write(fd: int, text: str, refused: Callable[[OSError], SystemFailure]) -> None:
        try:
            os.write(fd, text.encode())
        except OSError as err:
            raise refused(err) from err
        finally:
            os.close(fd)
