"""What ``POST /networks/create`` answers to unusual requests: dockerd's status and words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from enginekit import RunningEngine

_CONFIGURATION = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
_MODE4 = "com.docker.network.bridge.gateway_mode_ipv4"


def options(driver: str, **values: str) -> dict[str, Any]:
    return {"Driver": driver, "Options": values}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Driver": "none"}, 404, 'plugin "none" not found'),
        ({"Driver": "Bridge"}, 404, 'plugin "Bridge" not found'),
        ({"IPAM": {"Driver": "nope"}}, 404, 'plugin "nope" not found'),
        ({"Driver": "overlay"}, 403, "This node is not a swarm manager. "),
        ({"Driver": "null"}, 403, 'only one instance of "null" network is allowed'),
        ({"ConfigOnly": True, "Internal": True}, 403, _CONFIGURATION),
        ({"ConfigOnly": True, "Attachable": True}, 403, _CONFIGURATION),
        (
            {"Options": {_MODE4: "x"}},
            400,
            f"failed to parse {_MODE4} value: x (unknown gateway mode x)",
        ),
        (
            options("macvlan", macvlan_mode="x"),
            500,
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            options("ipvlan", ipvlan_mode="x"),
            500,
            "requested ipvlan mode 'x' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (
            options("ipvlan", ipvlan_flag="x"),
            500,
            "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default",
        ),
        (
            options("macvlan", parent="lo"),
            500,
            "loopback interface is not a valid macvlan parent link",
        ),
        (
            options("ipvlan", parent="nope0"),
            500,
            "invalid subinterface vlan name nope0, example formatting is eth0.10",
        ),
    ],
)
def test_a_network_is_refused(
    engine: RunningEngine, body: dict[str, Any], status: int, words: str
) -> None:
    got, _, data = engine.request("POST", "/networks/create", {"Name": "refused", **body})
    message = json.loads(data).get("message", "")
    engine.request("DELETE", "/networks/refused")
    assert (got, message[: len(words)]) == (status, words)
    engine.json("GET", "/networks/refused", status=404)


def test_a_configuration_network_has_no_ranges_of_its_own(engine: RunningEngine) -> None:
    body = {"Name": "template", "ConfigOnly": True}
    engine.json("POST", "/networks/create", body, 201)
    found = engine.json("GET", "/networks/template")
    engine.json("DELETE", "/networks/template", status=204)
    assert (found["Driver"], found["IPAM"]["Config"]) == ("null", None)
