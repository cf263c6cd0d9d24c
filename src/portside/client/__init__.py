"""Engine API client: small, synchronous, and quick to import.

A command's time is mostly imports (milliseconds on the reference machine: the bare
interpreter 8, ``socket`` + 9, ``json`` + 10, ``http.client`` + 28, ``msgspec`` + 38,
``asyncio`` + 45), so this package speaks HTTP/1.1 on a plain socket and uses the C halves of
``socket`` and ``json`` directly; all of it together costs about 2 ms. What is rare (TLS,
TCP, credential helpers) is imported when it is needed.
"""
