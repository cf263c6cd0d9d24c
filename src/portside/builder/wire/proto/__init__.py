"""Messages of BuildKit's interfaces, generated from the ``.proto`` files by ``generate.sh``.

Field numbers and names come from the published interface.
"""
