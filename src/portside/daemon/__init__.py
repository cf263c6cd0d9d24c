"""The engine as a process: options and daemon.json, sockets, signals, the API served."""
