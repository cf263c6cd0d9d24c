"""Names of the log drivers."""

FILES = ("json-file", "local")
"""They keep a container's output in a file of their own."""
REMOTE = ("fluentd", "gelf", "journald", "syslog")
"""They send it elsewhere, and keep a copy in a file unless ``cache-disabled`` is set."""
NONE = "none"
