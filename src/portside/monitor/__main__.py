"""The ``portside monitor`` command: flags and settings."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from portside import __version__
from portside.flags.help_text import of_flags
from portside.flags.table import HelpWanted, Options, UsageError, parse, read_table
from portside.model.errors import InvalidParameter, PortsideError
from portside.monitor.cadvisor.runtime_flags import carry, items

_TABLE = """
      --config string              YAML file with any of these settings, exporters, webhooks
                                   and rules
  -l, --listen string              Address to serve on (default "127.0.0.1:8080")
      --engine string              Address of the engine (default: DOCKER_HOST, else the socket
                                   of Portside or Docker that is there)
      --root string                Control group below which is sampled (default "/")
      --rootfs string              Where the root of the machine is mounted (default: /rootfs
                                   inside a container that has it)
      --interval string            Time between two samples of a group (default "1s")
      --max-interval string        The same for an idle group (default "60s")
      --dynamic                    Look at idle groups less often (default true)
      --details-interval string    Time between counts of descriptors and sockets (default "10s")
      --full string                How long every sample is kept (default "2m")
      --kept string                How long means and maxima are kept in memory (default "1h")
      --history string             File of the history on disk, in a directory that exists
      --history-days string        Days of history on disk (default "7")
      --history-bytes bytes        Size of the history on disk at most (default "512m")
      --containers-only            Sample containers and the machine only
      --enable-metrics strings     Kinds of metrics that are shown, and no others
      --disable-metrics strings    Kinds of metrics that are not shown, such as tcp,udp,process
      --label strings              Show only these labels of containers as labels of metrics
      --env strings                Show environment variables with these prefixes as labels
      --prefix string              Path below which everything is served
      --metrics-path string        Path of the metrics (default "/metrics")
      --tls-cert string            Certificate of the server
      --tls-key string             Key of the certificate
      --tls-client-ca string       Clients must show a certificate of this authority
      --htpasswd string            File of users (bcrypt) that have access
      --token-file string          File of bearer tokens, one a line
      --host-name list             Name that clients may use, such as a proxy's (default: localhost
                                   and addresses; matters on loopback without authentication)
      --insecure                   Serve other machines without authentication
      --logs                       Show containers' logs on the page (default: only with
                                   --htpasswd, --token-file or --tls-client-ca)
      --exporter list              Send metrics: KIND=URL with otlp, influxdb, influxdb2, statsd,
                                   jsonlines or redis; options in --config
      --webhook list               URL that warnings are sent to, in Alertmanager's format
      --debug                      Log more
"""
_PLAIN = {
    "listen": "listen", "engine": "engine", "root": "root", "rootfs": "rootfs",
    "interval": "interval", "max-interval": "max_interval",
    "details-interval": "details_interval", "full": "full", "kept": "kept", "history": "history",
    "prefix": "prefix", "metrics-path": "metrics_path", "tls-cert": "tls_certificate",
    "tls-key": "tls_key", "tls-client-ca": "tls_client_ca", "htpasswd": "htpasswd",
    "token-file": "token_file",
}  # fmt: skip
"""Flags that are settings as they are."""


def _help() -> str:
    return (
        "Usage:  portside monitor [OPTIONS]\n\n"
        "Watch the machine, its control groups and its containers: pages at /containers/ and\n"
        "/docker/, cAdvisor's HTTP API and metrics, export, early warning\n\n"
        f"Options:\n{of_flags(read_table(_TABLE))}\n"
        "cAdvisor's flags (--housekeeping_interval, --port …) are accepted, too.\n"
    )


def _convert(kind: str, text: str) -> Any:
    """Values of the kinds that the table uses."""
    if kind == "strings":
        return items(text)
    if kind == "bytes":
        from portside.model.golang.sizes import ram_bytes

        return ram_bytes(text)
    return text


def values_of(options: Options, carried: dict[str, Any] | None = None) -> dict[str, Any]:
    """The file's settings, overridden by the flags; raises InvalidParameter.

    ``carried``: settings of cAdvisor's flags, which override the file's.
    """
    from portside.monitor.settings import all_but, load_file

    values = load_file(options.text("config")) if options.given("config") else {}
    carried = carried or {}
    more = carried.get("exporters", [])
    values |= carried | ({"exporters": [*values.get("exporters", ()), *more]} if more else {})
    for flag, name in _PLAIN.items():
        if options.given(flag):
            values[name] = options.text(flag)
    if options.given("dynamic"):
        values["dynamic"] = options.flag("dynamic")
    if options.given("logs"):
        values["logs"] = options.flag("logs")
    if options.flag("containers-only"):
        values["docker_only"] = True
    if options.flag("insecure"):
        values["insecure"] = True
    if options.given("host-name"):
        values["hosts"] = options.many("host-name")
    if options.given("history-days"):
        try:
            values["history_days"] = float(options.text("history-days"))
        except ValueError:
            raise InvalidParameter("--history-days must be a number of days") from None
    if options.given("history-bytes"):
        values["history_bytes"] = options.value("history-bytes")
    if options.given("disable-metrics"):
        values["disabled"] = options.many("disable-metrics")
    if options.given("enable-metrics"):
        values["disabled"] = all_but(options.many("enable-metrics"))
    if options.given("label"):
        values |= {"labels": options.many("label"), "store_labels": False}
    if options.given("env"):
        values["environment"] = options.many("env")
    exporters = []
    for text in options.many("exporter"):
        kind, equals, url = text.partition("=")
        if not equals or not url:
            raise InvalidParameter(f"--exporter {text!r} is not of the form KIND=URL")
        exporters.append({"kind": kind, "url": url})
    if exporters:
        values["exporters"] = [*values.get("exporters", ()), *exporters]
    if options.given("webhook"):
        urls = [{"url": url} for url in options.many("webhook")]
        values["webhooks"] = [*values.get("webhooks", ()), *urls]
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is returned."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        carried = carry(given)
        if carried.shows_version:
            print(f"portside monitor {__version__}")
            return 0
        options, operands = parse(read_table(_TABLE), carried.words, convert=_convert)
        if operands:
            raise UsageError("'portside monitor' accepts no arguments")
    except HelpWanted:
        print(_help(), end="")
        return 0
    except (UsageError, InvalidParameter) as err:
        print(f"portside monitor: {err}\n\nRun 'portside monitor --help' for more information",
              file=sys.stderr)  # fmt: skip
        return 2
    level = logging.DEBUG if options.flag("debug") else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    os.umask(0o077)
    try:
        from portside.monitor.program import run
        from portside.monitor.settings import made_of

        for note in carried.notes:
            logging.getLogger("portside.monitor").warning("%s", note)
        run(made_of(values_of(options, carried.values)))
    except (PortsideError, OSError) as err:
        print(f"portside monitor: {getattr(err, 'strerror', None) or err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
