"""What the HTTP servers beside the engine share: sockets, TLS, users of an htpasswd file.

The registry and the monitor are programs of their own; this is below both.
"""
