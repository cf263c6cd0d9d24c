"""Dockerfiles: logical lines, instructions as typed values, expansion, checks, ignore rules."""
