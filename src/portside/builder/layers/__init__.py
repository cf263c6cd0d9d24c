"""A build's layers as blobs: packed, compressed, compared."""
