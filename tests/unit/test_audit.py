"""``system audit``: what a finding advises changes its verdict."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from portside.daemon.config import load
from portside.engine import audit_containers, audit_engine
from portside.engine.options import DaemonOptions
from portside.model.audit_findings import Finding
from portside.model.paths import ROOTLESS_VARIABLE

CARELESS = {
    "icc": True,
    "log-level": "debug",
    "iptables": False,
    "insecure-registries": ["example.com:5000"],
    "cgroup-parent": "/other",
    "seccomp-profile": "unconfined",
    "experimental": True,
}
SETTING = re.compile(r'set "([a-z-]+)": (.*) in (\S+) \(and no flag for it\), then restart')


def told(options: DaemonOptions) -> dict[str, Finding]:
    found = audit_engine._settings(options, bool(options.userns_remap))
    return {each.id: each for each in found if each.verdict != "pass"}


def test_each_advised_setting_is_accepted_and_changes_its_verdict(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    content: dict[str, Any] = dict(CARELESS)
    file.write_text(json.dumps(content))
    before = told(load(["--config-file", str(file)]))
    changed = set()
    for finding in before.values():
        if found := SETTING.match(finding.fix):
            key, value, path = found.groups()
            assert path == str(file)
            content[key] = json.loads(value)
            changed.add(finding.id)
    assert changed >= {"2.2", "2.3", "2.4", "2.5", "2.8", "2.9", "2.10", "2.14", "2.17", "2.18"}
    file.write_text(json.dumps(content))
    assert changed & told(load(["--config-file", str(file)])).keys() == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_advice_about_files_changes_their_verdicts(tmp_path: Path) -> None:
    """Each command as it is printed; paths may have what a shell reads otherwise."""
    place = tmp_path / "it's here"
    for name in ("data", "exec", "certs"):
        (place / name).mkdir(parents=True)
    for name in ("daemon.json", "ca.pem", "cert.pem", "key.pem", "socket"):
        (place / name).touch()
    options = DaemonOptions(
        config_file=str(place / "daemon.json"), data_root=str(place / "data"), group="nogroup",
        exec_root=str(place / "exec"), certs_dir=str(place / "certs"),
        tlscacert=str(place / "ca.pem"), tlscert=str(place / "cert.pem"),
        tlskey=str(place / "key.pem"), hosts=[f"unix://{place}/socket"],
    )  # fmt: skip
    mine = (place, *place.iterdir())
    for path in mine:
        path.chmod(0o777)
        os.chown(path, 12345, 12346)

    def warned() -> dict[str, Finding]:
        found = {each.id: each for each in audit_engine._files(options)}
        return {
            number: each for number, each in found.items()
            if each.verdict == "warn" and each.subject.startswith(str(place))
        }  # fmt: skip

    before = warned()
    assert len(before) == 2 * len(mine) == 18
    for finding in before.values():
        subprocess.run(["sh", "-c", finding.fix], check=True)
    assert warned() == {}


def test_an_engine_without_root_is_not_called_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)  # it is root of its user namespace
    monkeypatch.delenv(ROOTLESS_VARIABLE, raising=False)
    (tmp_path / "daemon.json").write_text("{}")
    options = load(["--config-file", str(tmp_path / "daemon.json")])
    assert {"2.1", "2.9", "2.12"} <= told(options).keys()
    monkeypatch.setenv(ROOTLESS_VARIABLE, "1000")
    assert not {"2.1", "2.9", "2.12"} & told(options).keys()


def test_an_advised_rule_of_auditd_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.d"
    rules.mkdir()
    monkeypatch.setattr(audit_engine, "_RULES", rules)
    root = tmp_path / "data root"
    root.mkdir()
    (tmp_path / "augenrules").write_text("#!/bin/sh\n")
    (tmp_path / "augenrules").chmod(0o755)
    (tmp_path / "daemon.json").write_text("{}")
    options = load(["--config-file", str(tmp_path / "daemon.json"), "--data-root", str(root)])

    def finding() -> Finding:
        (found,) = [each for each in audit_engine._machine(options) if each.id == "1.1.5"]
        return found

    (rules / "a.rules").write_text(f"# -w {root}\n-w '{tmp_path}/data' -p wa\n-w 'unclosed\n")
    assert finding().verdict == "info"
    path = f"PATH={shlex.quote(str(tmp_path))}:$PATH"
    subprocess.run(["sh", "-c", f"{path}; {finding().fix}"], check=True)
    assert finding().verdict == "pass"
    for rule in (f"-w '{root}/' -k x", f"-a always,exit -F dir='{tmp_path}' -F perm=wa"):
        (rules / "portside.rules").write_text(rule)
        assert finding().verdict == "pass"


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ((), ""),
        (("NET_BIND_SERVICE", "cap_chown"), ""),
        (("CHOWN", "NET_ADMIN"), "it has more capabilities than usual: CAP_NET_ADMIN"),
        (("all",), "it has more capabilities than usual: ALL"),
    ],
)
def test_capabilities_that_are_given_back_are_not_more(added: tuple[str, ...], reason: str) -> None:
    record = SimpleNamespace(host=SimpleNamespace(cap_add=added, cap_drop=("ALL",)))
    assert audit_containers._capabilities(cast("Any", None), cast("Any", record)) == reason


def test_published_ports_of_the_image_are_on_all_addresses() -> None:
    record = SimpleNamespace(host=SimpleNamespace(publish_all_ports=True, port_bindings={}))
    assert "all addresses" in audit_containers._any_address(cast("Any", None), cast("Any", record))
