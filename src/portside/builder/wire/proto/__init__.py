"""Messages of BuildKit's interfaces, generated from the ``.proto`` files by ``generate.sh``.

Field numbers and names are those of the published interface.
"""
