"""What the HTTP servers beside the engine share: sockets, TLS, users of an htpasswd file.

The registry and the monitor are separate programs; both use this package.
"""
