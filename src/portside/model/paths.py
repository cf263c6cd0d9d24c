"""Where the engine lives unless told otherwise. Imports nothing: every command needs it."""

DEFAULT_DATA_ROOT = "/var/lib/portside"
DEFAULT_EXEC_ROOT = "/run/portside"
DEFAULT_SOCKET = "/run/portside/portside.sock"
