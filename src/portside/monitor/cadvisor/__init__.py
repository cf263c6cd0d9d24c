"""cAdvisor's interfaces: its JSON (``container_json``), its HTTP API (``remote_api``), its
metrics (``exposition``). Names, shapes and units are cAdvisor 0.60's."""
