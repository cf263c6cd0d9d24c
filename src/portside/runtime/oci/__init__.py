"""The OCI runtime's command line (``portside-runtime``), as runc's; one module a group of verbs."""
