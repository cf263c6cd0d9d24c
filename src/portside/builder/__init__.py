"""The builder: from a Dockerfile or a client's graph to an image.

::

    dockerfile/   text → instructions with positions, checks, ignore rules
    frontend      instructions → LLB (:mod:`portside.builder.llb`) and an image configuration
    solver/       LLB → snapshots, through a cache
    exporters/    snapshots → images

Nothing of this is imported before the first build.
"""
