"""What the HTTP servers share: sockets, TLS, users of an htpasswd file; ``http`` is a server.

The engine, the registry and the monitor are separate programs that use this package.
"""
