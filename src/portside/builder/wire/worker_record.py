"""This engine's description as a BuildKit worker, for clients."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import portside
from portside.builder.cache.pruning import Policy, PruneRule
from portside.builder.solver.entitlements import BuildDevice
from portside.builder.wire.proto import ops_pb2, worker_pb2
from portside.kernel import binfmt
from portside.model.platform import Platform

VERSION = "v0.25.0"
"""The version of BuildKit whose interface is spoken."""
SNAPSHOTTER = "org.mobyproject.buildkit.worker.snapshotter"
"""Clients offer several platforms, archives and cache export where a worker has this label."""


def version() -> dict[str, str]:
    return {
        "package": "github.com/moby/buildkit",
        "version": VERSION,
        "revision": f"portside-{portside.__version__}",
    }


def worker_record(
    labels: Mapping[str, str], policy: Policy, devices: Sequence[BuildDevice] = ()
) -> Any:
    """``policy``: the bounds of the cache."""
    platforms = []
    for system, architecture in dict.fromkeys(
        (Platform.host().os, architecture) for architecture in _architectures()
    ):
        platforms.append(ops_pb2.Platform(OS=system, Architecture=architecture))
    return worker_pb2.WorkerRecord(
        ID=labels.get("id", "portside"),
        Labels={
            "org.mobyproject.buildkit.worker.executor": "portside",
            "org.mobyproject.buildkit.worker.hostname": socket.gethostname(),
            "org.mobyproject.buildkit.worker.network": "host",
            "org.mobyproject.buildkit.worker.oci.process-mode": "sandbox",
            SNAPSHOTTER: "overlay",
            **{key: value for key, value in labels.items() if key != "id"},
        },
        platforms=platforms,
        GCPolicy=[_rule(rule) for rule in policy.rules],
        BuildkitVersion=worker_pb2.BuildkitVersion(**version()),
        CDIDevices=[
            worker_pb2.CDIDevice(
                Name=device.name, AutoAllow=device.is_auto_allowed, Annotations=device.annotations
            )
            for device in devices
        ],
    )


def _rule(rule: PruneRule) -> Any:
    return worker_pb2.GCPolicy(
        all=rule.all,
        keepDuration=int(rule.unused_for * 10**9),
        filters=[f"{name}=={text}" for name, values in rule.filters.items() for text in values],
        reservedSpace=rule.reserved,
        maxUsedSpace=rule.max_used,
        minFreeSpace=rule.min_free,
    )


def _architectures() -> list[str]:
    host = Platform.host()
    own = [host.architecture, *(arch for arch, _ in host.runs() if arch != host.architecture)]
    return [*own, *(each.architecture for each in binfmt.emulators() or () if each.is_enabled)]
