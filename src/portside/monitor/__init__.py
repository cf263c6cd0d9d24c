"""The monitor: what the machine, its control groups and its containers use, and early warning.

A program of its own (``portside monitor``), which runs with or without an engine. Data flows
one way::

    group_tree ─► group_reader ─► collector ─► history, live_events, exporters, early_warning
    engine_watch ─► collector (names, images, labels, health: values of ContainerFacts)
    http_server ─► cadvisor (JSON and metrics of cAdvisor), own_api (JSON for pages), page_files

* ``samples``: :class:`Sample`, one sample of one group, packed; ``SERIES`` names the numbers that
  charts show, :class:`Point` has their values.
* ``history``: full resolution for two minutes, means and maxima for an hour, in memory;
  ``history_file`` keeps days on disk.
* ``own_api``: the interface for pages and terminals, below ``/api/portside/v1/``.
"""
