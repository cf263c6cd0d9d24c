"""Use the client: run a container through the Engine API and print the events that it causes.

    sudo python examples/watch_events.py unix:///run/portside/portside.sock

The client is the one of the portside command: synchronous, without dependencies, and it talks to
every engine that speaks the Docker Engine API.
"""

from __future__ import annotations

import sys
import time

from portside.client.client import Client, filters_text, path_of
from portside.client.endpoint import Endpoint

BASE = "portside/base"


def main(host: str) -> int:
    client = Client(Endpoint(host))
    client.negotiate()
    since = time.time()
    for _ in client.messages("POST", "/images/create", {"fromImage": BASE, "tag": "latest"}):
        pass  # the progress of the pull
    config = {"Image": BASE, "Cmd": ["true"], "HostConfig": {"AutoRemove": True}}
    identifier = client.post("/containers/create", None, config)["Id"]
    client.post(path_of("containers", identifier, "start"))
    client.post(path_of("containers", identifier, "wait"), {"condition": "removed"})
    query = {
        "since": f"{since:.6f}",
        "until": f"{time.time():.6f}",
        "filters": filters_text({"container": [identifier]}),
    }
    for event in client.messages("GET", "/events", query):
        print(event["Type"], event["Action"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
