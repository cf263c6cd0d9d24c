"""A small HTTP/1.1 server, of the Engine API and of the monitor.

Written for what the Engine API needs and general servers make hard: a connection can be
*hijacked* (its socket handed to a container's monitor, or spoken to in HTTP/2), an idle
server costs little memory, and a small request costs little time.

``parser`` turns bytes into heads and bodies, ``messages`` are the values handlers see,
``connection`` is one client's connection, ``http2`` one that begins with HTTP/2, ``websocket``
RFC 6455 for ``attach/ws``.
"""
