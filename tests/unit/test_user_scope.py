"""When a user's engine asks systemd for a scope beside its service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portside.daemon import user_scope
from portside.kernel.cgroup.layout import OWN_LEAF, Layout

ABOVE = f"/user.slice/user-7.slice/user@{os.geteuid()}.service/app.slice"
SERVICE = f"{ABOVE}/portside.service"


class Asked(list[tuple[str, str, str]]):
    answer = ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()

    def make(scope: str, service: str, slice_: str) -> str:
        made.append((scope, service, slice_))
        return made.answer

    monkeypatch.setattr(user_scope, "_make", make)
    monkeypatch.setattr(user_scope, "_RETRIES", 0.0)
    monkeypatch.setattr(user_scope, "_PAUSE", 0.0)
    return made


def be_in(monkeypatch: pytest.MonkeyPatch, root: Path, path: str, *controllers: str) -> None:
    layout = Layout("v2", (), str(root) + path.removesuffix(f"/{OWN_LEAF}"), frozenset(controllers))
    monkeypatch.setattr(user_scope, "detect", lambda: layout)
    monkeypatch.setattr(user_scope, "own_path", lambda: path)


def test_a_service_without_a_scope_asks_for_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Asked
) -> None:
    be_in(monkeypatch, tmp_path, SERVICE, "memory")
    user_scope.enter()
    assert asked == [("portside-containers.scope", "portside.service", "app.slice")]


@pytest.mark.parametrize(
    "path",
    [
        f"{SERVICE}/{OWN_LEAF}",
        "/user.slice/user-7.slice/session-1.scope",
        "/system.slice/portside.service",
        f"/user.slice/user-7.slice/user@{os.geteuid() + 1}.service/app.slice/portside.service",
    ],
)
def test_who_needs_none_asks_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Asked, path: str
) -> None:
    be_in(monkeypatch, tmp_path, path, "memory")
    user_scope.enter()
    assert asked == []


def test_without_controllers_nothing_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Asked
) -> None:
    be_in(monkeypatch, tmp_path, SERVICE)
    user_scope.enter()
    assert asked == []


def test_a_scope_with_containers_is_joined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: Asked
) -> None:
    be_in(monkeypatch, tmp_path, SERVICE, "memory")
    scope = tmp_path / ABOVE[1:] / "portside-containers.scope"
    scope.mkdir(parents=True)
    (scope / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    user_scope.enter()
    assert asked == [] and (scope / OWN_LEAF / "cgroup.procs").read_text() == "0"


def test_an_empty_scope_is_not_joined(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: Asked,
    capsys: pytest.CaptureFixture[str],
) -> None:
    be_in(monkeypatch, tmp_path, SERVICE, "memory")
    scope = tmp_path / ABOVE[1:] / "portside-containers.scope"
    scope.mkdir(parents=True)
    (scope / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    asked.answer = "Unit portside-containers.scope already exists."
    user_scope.enter()
    assert asked and not (scope / OWN_LEAF).exists()
    assert "cannot be restarted while they run: Unit" in capsys.readouterr().err
