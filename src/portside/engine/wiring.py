"""From the daemon's options to each service's own, and the services themselves."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from portside.engine.options import DaemonOptions
from portside.model.container import Ulimit
from portside.model.errors import InvalidParameter
from portside.model.events import Publisher
from portside.model.idmap import IDMappings
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import AddressPool, NetworkOptions
from portside.model.paths import rootless_user
from portside.registry.client.options import RegistryOptions

if TYPE_CHECKING:
    from portside.builder.service import BuildService
    from portside.builder.wire.grpc_endpoint import GrpcEndpoint
    from portside.containers.core import ContainerOptions, Core
    from portside.images.service import ImageService
    from portside.kernel.idmapped import Helper
    from portside.networks.service import NetworkService
    from portside.store.store import Store


log = logging.getLogger(__name__)


def engine_id(data_root: Path) -> str:
    """This data root's identity, kept in the file ``engine-id``; one that is not a UUID is
    replaced."""
    path = data_root / "engine-id"
    with suppress(OSError, ValueError):
        kept = path.read_bytes()[:64].decode().strip()
        if [len(bytes.fromhex(part)) for part in kept.split("-")] == [4, 2, 2, 2, 6]:
            return kept
    if path.exists():
        log.warning("%s does not hold a UUID: it is written again", path)
    digits = new_id()[:32]
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    identity = "-".join(parts)
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(identity + "\n")
        fresh.rename(path)
    except OSError as err:  # a full disk: for this run only
        log.warning("%s cannot be written: %s", path, err.strerror)
    return identity


def registry_options(options: DaemonOptions) -> RegistryOptions:
    proxies = options.proxies
    upstream: dict[str, tuple[str, ...]] = {}
    for text in options.upstream_mirrors:
        host, _, mirror = text.partition("=")
        upstream[host] = (*upstream.get(host, ()), mirror)
    return RegistryOptions(
        mirrors=options.registry_mirrors,
        upstream_mirrors=upstream,
        insecure=options.insecure_hosts,
        certs_dir=Path(options.certs_dir),
        http_proxy=options.http_proxy or proxies.get("http-proxy"),
        https_proxy=options.https_proxy or proxies.get("https-proxy"),
        no_proxy=options.no_proxy or proxies.get("no-proxy"),
        max_concurrent_downloads=options.max_concurrent_downloads,
        max_concurrent_uploads=options.max_concurrent_uploads,
        max_download_attempts=options.max_download_attempts,
    )


def network_options(options: DaemonOptions, mappings: IDMappings | None) -> NetworkOptions:
    return NetworkOptions(
        bridge=options.bridge,
        bip=options.bip,
        bip6=options.bip6,
        fixed_cidr=options.fixed_cidr,
        fixed_cidr_v6=options.fixed_cidr_v6,
        default_gateway=options.default_gateway,
        default_gateway_v6=options.default_gateway_v6,
        default_address_pools=tuple(
            AddressPool(pool.base, pool.size) for pool in options.default_address_pools
        ),
        default_network_opts=options.default_network_opts,
        ipv6=options.ipv6,
        default_network_ipv6=options.default_network_ipv6,
        mtu=options.mtu,
        icc=options.icc,
        ip_masq=options.ip_masq,
        ip_forward=options.ip_forward,
        firewall=options.iptables,
        default_binding_ip=options.ip,
        userland_proxy=options.userland_proxy,
        publish_policy=options.publish_policy,
        dns=options.dns,
        dns_search=options.dns_search,
        dns_options=options.dns_opts,
        host_gateway_ips=options.host_gateway_ips,
        id_mappings=mappings,
        host_sockets=f"{options.exec_root}/keeper.sock" if rootless_user() else "",
    )


def id_mappings(options: DaemonOptions) -> IDMappings | None:
    """Of the user namespace that containers have by default."""
    if not options.userns_remap:
        return None
    from portside.engine.userns_remap import mappings

    return mappings(options.userns_remap)


def images(
    store: Store, options: DaemonOptions, publish: Publisher, is_running: Callable[[str], bool]
) -> ImageService:
    from portside.images.service import ImageService

    return ImageService(store, registry_options(options), publish, is_running=is_running)


def networks(
    store: Store, instance: Instance, options: DaemonOptions, mappings: IDMappings | None,
    publish: Publisher, helper: Helper,
) -> NetworkService:  # fmt: skip
    from portside.networks.service import NetworkService

    return NetworkService(store.db, instance, network_options(options, mappings), publish, helper)


def container_options(options: DaemonOptions, mappings: IDMappings | None) -> ContainerOptions:
    from portside.containers.core import ContainerOptions
    from portside.containers.selinux_labels import contexts
    from portside.engine.apparmor import default_profile

    profile = options.seccomp_profile
    if profile not in ("", "builtin", "unconfined"):
        try:
            profile = Path(profile).read_text()
        except OSError as err:
            raise InvalidParameter(
                f"opening seccomp profile ({profile}) failed: {err.strerror}"
            ) from None
    return ContainerOptions(
        log_driver=options.log_driver,
        log_opts=options.log_opts,
        cgroup_parent=options.cgroup_parent,
        ulimits=tuple(
            Ulimit(name=item.name, hard=item.hard, soft=item.soft)
            for item in options.default_ulimits.values()
        ),
        shm_size=options.default_shm_size,
        ipc_mode=options.default_ipc_mode,
        cgroupns_mode=options.default_cgroupns_mode,
        no_new_privileges=options.no_new_privileges,
        seccomp_profile="" if profile == "builtin" else profile,
        apparmor_profile=default_profile(),
        selinux=contexts(options.selinux_enabled),
        init=options.init,
        init_path=options.init_path,
        id_mappings=mappings,
        default_runtime=options.default_runtime,
        runtimes={
            name: shlex.join((item.path, *item.args)) for name, item in options.runtimes.items()
        },
        cdi_spec_dirs=options.cdi_spec_dirs,
    )


def builder(containers: Core, images: ImageService, options: DaemonOptions) -> BuildService:
    from portside.builder.service import BuildService

    return BuildService(containers, images, options.builder)


def grpc(builder: BuildService, networks: NetworkService, identity: str) -> GrpcEndpoint:
    from portside.builder.wire.grpc_endpoint import GrpcEndpoint

    labels = {"id": identity}
    for address in networks.host_gateways()[:1]:  # clients take one
        labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = address
    return GrpcEndpoint(builder, labels)


def reload_attributes(options: DaemonOptions) -> dict[str, str]:
    """The attributes of the ``reload`` event."""
    import json

    return {
        "debug": str(options.debug).lower(),
        "default-runtime": options.default_runtime,
        "default-shm-size": str(options.default_shm_size),
        "insecure-registries": json.dumps(list(options.insecure_hosts)),
        "labels": json.dumps(list(options.labels)),
        "live-restore": str(options.live_restore).lower(),
        "max-concurrent-downloads": str(options.max_concurrent_downloads),
        "max-concurrent-uploads": str(options.max_concurrent_uploads),
        "name": "portside",
        "registry-mirrors": json.dumps(list(options.registry_mirrors)),
        "upstream-mirrors": json.dumps(list(options.upstream_mirrors)),
        "shutdown-timeout": str(options.shutdown_timeout),
    }
