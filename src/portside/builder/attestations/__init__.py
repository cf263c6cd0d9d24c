"""Attestations of a build: provenance (where its result comes from) and SBOM (what is in it)."""
