"""Blobs by digest, layers, union mounts, safe tar in and out, metadata, garbage collection.

Start at :class:`portside.store.store.Store`.
"""
