"""What a crash can leave of images, and its mending at the engine's start."""

from __future__ import annotations

import logging

from portside.images.image_store import Catalogue
from portside.model.digest import Digest
from portside.model.errors import PortsideError
from portside.store.db import Ref

log = logging.getLogger(__name__)


def drop_broken(catalogue: Catalogue) -> list[str]:
    """Forget images whose configuration or manifest is gone; their IDs.

    Only a power cut between a write and its way to the disk does that: the store has then
    dropped the damaged blob, and the image can be pulled again. Images that containers use
    are kept, since their layers are what counts.
    """
    dropped = []
    for identifier, record in catalogue.records.items():
        try:
            catalogue.store.blobs.info(Digest(identifier))
            catalogue.store.blobs.info(Digest(record.manifest))
        except PortsideError as err:
            if catalogue.store.db.refs.users(Ref.image(identifier), "container"):
                log.error("image %s is damaged (%s): pull it again", identifier, err)
                continue
            log.warning("image %s is damaged (%s) and was dropped: pull it again", identifier, err)
            catalogue.delete(identifier)
            dropped.append(identifier)
    return dropped
