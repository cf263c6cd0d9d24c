"""The OCI runtime-spec configuration of a container."""
