"""The version of the OCI runtime-spec that is followed; alone, for who needs no more of it."""

SPEC_VERSION = "1.2.0"
