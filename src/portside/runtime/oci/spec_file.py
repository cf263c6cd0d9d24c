"""Specifications in files: a bundle's, and the copies that the state directory keeps."""

from __future__ import annotations

import msgspec

from portside.model.errors import InvalidParameter, NotFound
from portside.model.ociruntime import Spec, State
from portside.model.spec_version import SPEC_VERSION
from portside.runtime import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.runtime.oci.state_store import Container, Saved


def read_spec(path: str) -> Spec:
    """A ``config.json``. Raises NotFound or InvalidParameter."""
    try:
        with open(path, "rb") as file:
            return messages.decode(file.read(), Spec)
    except FileNotFoundError:
        raise NotFound(f"JSON specification file {path} not found") from None
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"{path}: {err}") from err


def of(box: Container) -> Spec:
    """The configuration that a container was created with."""
    return read_spec(f"{box.directory}/config.json")


def state(saved: Saved, spec: Spec, status: str) -> State:
    """The state that hooks receive on standard input."""
    pid = 0 if status == "stopped" else saved.pid
    return State(SPEC_VERSION, saved.id, status, saved.bundle, pid, spec.annotations)
