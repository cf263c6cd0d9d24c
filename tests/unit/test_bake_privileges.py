"""What targets of a bake file may do without being allowed, as in ``docker buildx bake``."""

from pathlib import Path
from typing import Any

import pytest

from portside.cli.bake import bake_privileges
from portside.cli.session import Failed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; beside it are ``beside`` and a link to it within."""
    inside = tmp_path / "in"
    for directory in (inside / "sub", tmp_path / "beside"):
        directory.mkdir(parents=True)
    (inside / "link").symlink_to(tmp_path / "beside")
    monkeypatch.chdir(inside)
    monkeypatch.delenv("BUILDX_BAKE_ENTITLEMENTS_FS", raising=False)
    return inside


def target(**fields: Any) -> dict[str, dict[str, Any]]:
    return {"a": {"context": ".", "dockerfile": "Dockerfile", **fields}}


def refused(targets: dict[str, Any], *allowed: str, paths: bool = True) -> list[str]:
    """The flags that would grant what is missing; empty when nothing is."""
    lines: list[str] = []

    def note(shown: dict[str, str]) -> bool:
        lines.extend(shown)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bake_privileges, "_confirmed", note)
        try:
            bake_privileges.check(targets, allowed, paths=paths)
        except Failed as err:
            assert str(err) == "ERROR: additional privileges requested" and lines
    return lines


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, []),
        ({"context": "sub", "dockerfile": "../Dockerfile"}, []),
        ({"context": ".."}, ["fs.read=.."]),
        ({"context": "link"}, ["fs.read=../beside"]),
        ({"context": "sub", "dockerfile": "../../Dockerfile"}, ["fs.read=.."]),
        ({"context": "https://host/x.git"}, []),
        ({"contexts": {"x": "/etc/ssl", "y": "target:b", "z": "docker-image://i"}},
         ["fs.read=/etc/ssl"]),
        ({"output": [{"type": "local", "dest": "out"}]}, []),
        ({"output": [{"type": "tar", "dest": "-"}]}, []),
        ({"output": [{"type": "local", "dest": "../no/such"}]}, ["fs.write=.."]),
        ({"context": "..", "output": [{"type": "local", "dest": "../out"}]}, ["fs=.."]),
        ({"context": "..", "contexts": {"x": "../beside"}}, ["fs.read=.."]),
        ({"secret": [{"id": "a", "src": "/etc/hostname"}]}, ["fs.read=/etc/hostname"]),
        ({"cache-from": [{"type": "local", "src": "/etc"}],
          "cache-to": [{"type": "local", "dest": "/var"}]}, ["fs.read=/etc", "fs.write=/var"]),
        ({"ssh": [{"id": "default"}]}, ["ssh"]),
        ({"ssh": [{"id": "default", "paths": ["/etc/passwd"]}]}, ["fs.read=/etc/passwd"]),
        ({"entitlements": ["security.insecure", "network.host", "device=x/y=z"]},
         ["network.host", "security.insecure", "device=x/y=z"]),
    ],
)  # fmt: skip
def test_what_is_requested(here: Path, fields: dict[str, Any], flags: list[str]) -> None:
    targets = target(**fields)
    assert refused(targets) == flags
    assert refused(targets, *flags) == []
    steps = [flag for flag in flags if not flag.startswith("fs")]
    assert refused(targets, paths=False) == steps
    assert refused(targets, *steps, "fs=*") == []


def test_the_check_of_paths_can_be_off(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
    assert refused(target(context="..", entitlements=["network.host"])) == ["network.host"]


def test_one_way_is_not_the_other(here: Path) -> None:
    targets = target(context="..", output=[{"type": "local", "dest": ".."}])
    assert refused(targets, "fs.read=..") == ["fs.write=.."]
    assert refused(targets, "fs.write=..") == ["fs.read=.."]
    assert refused(target(entitlements=["device=a"]), "device") == []


@pytest.mark.parametrize("text", ["foo", "fs.foo=1", "network"])
def test_unknown_keys(here: Path, text: str) -> None:
    with pytest.raises(Failed, match="unknown entitlement key"):
        bake_privileges.check(target(), [text], paths=True)


def test_the_answer_names_the_flags(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failed):
        bake_privileges.check(target(context="..", entitlements=["network.host"]), (), paths=True)
    said = capsys.readouterr().err
    assert " - Running build containers that can access host network\n" in said
    assert " - Read access to path ..\n" in said
    assert 'Pass "--allow=network.host --allow=fs.read=.." to grant' in said
