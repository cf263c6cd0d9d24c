"""What other programs read in Docker's data root, beside its API.

cAdvisor finds a container's writable layer in
``image/DRIVER/layerdb/mounts/ID/mount-id``, and does not watch a container that has none.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

LAYER_FILE = "mount-id"


def link_layers(data_root: Path, driver: str) -> None:
    """Give the containers' directories the place that they have in Docker's data root."""
    place = data_root / "image" / driver / "layerdb"
    place.mkdir(mode=0o710, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (place / "mounts").symlink_to("../../../containers")


def name_layer(directory: Path, layer: str) -> None:
    """Note the name of a container's writable layer in its directory."""
    (directory / LAYER_FILE).write_text(layer)
