"""Instructions of ``commit -c`` and ``import -c``, and the filter ``reference``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.images.config_changes import apply_changes
from portside.images.filters import reference_matches
from portside.images.image_jobs import member_name
from portside.model.errors import InvalidParameter
from portside.model.image import Healthcheck, RunConfig
from portside.model.reference import Reference

BASE = RunConfig(env=("PATH=/bin", "A=1"), cmd=("old",), working_dir="/srv")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b"]', {"cmd": ("a", "b")}),
        ("CMD echo $A", {"cmd": ("/bin/sh", "-c", "echo $A")}),
        ('cmd ["broken', {"cmd": ("/bin/sh", "-c", '["broken')}),
        ('ENTRYPOINT ["e"]', {"entrypoint": ("e",), "cmd": None}),
        ("ENTRYPOINT []", {"entrypoint": None, "cmd": None}),
        ("ENV B=2 C='3 4' D=\"x $A\"", {"env": ("PATH=/bin", "A=1", "B=2", "C=3 4", "D=x 1")}),
        ("ENV A all of it", {"env": ("PATH=/bin", "A=all of it")}),
        ("ENV P=$PATH:/x", {"env": ("PATH=/bin", "A=1", "P=/bin:/x")}),
        ("ENV Q=${NO:-dflt}${A:+set}", {"env": ("PATH=/bin", "A=1", "Q=dfltset")}),
        (r"ENV E=\$A", {"env": ("PATH=/bin", "A=1", "E=$A")}),
        ("EXPOSE 80 53/udp 90-91", {"exposed_ports": {p: {} for p in
            ("80/tcp", "53/udp", "90/tcp", "91/tcp")}}),
        ('LABEL a=b c="d e"', {"labels": {"a": "b", "c": "d e"}}),
        ("USER joe:staff", {"user": "joe:staff"}),
        ("VOLUME /a /b", {"volumes": {"/a": {}, "/b": {}}}),
        ('VOLUME ["/a"]', {"volumes": {"/a": {}}}),
        ("WORKDIR /x", {"working_dir": "/x"}),
        ("WORKDIR sub/../y", {"working_dir": "/srv/y"}),
        ("ONBUILD RUN x", {"on_build": ("RUN x",)}),
        ("STOPSIGNAL SIGINT", {"stop_signal": "SIGINT"}),
        ("HEALTHCHECK NONE", {"healthcheck": Healthcheck(test=("NONE",))}),
        (
            "HEALTHCHECK --interval=5s --timeout=1m30s --retries=3 CMD curl x",
            {"healthcheck": Healthcheck(test=("CMD-SHELL", "curl x"), interval=5 * 10**9,
                                        timeout=90 * 10**9, retries=3)},
        ),
    ],
)  # fmt: skip
def test_instructions(change: str, expected: dict[str, object]) -> None:
    config = apply_changes(BASE, [change])
    for name, value in expected.items():
        assert getattr(config, name) == value


def test_entrypoint_keeps_a_command_of_the_same_request() -> None:
    config = apply_changes(BASE, ['CMD ["c"]', 'ENTRYPOINT ["e"]'])
    assert config.cmd == ("c",) and config.entrypoint == ("e",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("FROM x", "FROM is not a valid change command"),
        ("RUN x", "RUN is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("LABEL a=b c", "can't find = in"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 9-8", "invalid containerPort: 9-8"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("STOPSIGNAL FOO", "invalid signal: FOO"),
        ("ONBUILD ONBUILD RUN x", "isn't allowed"),
        ("HEALTHCHECK FOO x", 'Unknown type "FOO"'),
        ("HEALTHCHECK --interval=x CMD y", "invalid duration"),
        ('ENV A="x', "matching quote"),
    ],
)
def test_bad_instructions(change: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        apply_changes(BASE, [change])
    assert message in str(caught.value)


@given(st.sampled_from(["ENV", "LABEL", "CMD", "EXPOSE", "VOLUME", "WORKDIR", "HEALTHCHECK"]),
       st.text(max_size=60))  # fmt: skip
def test_any_instruction_is_taken_or_refused(word: str, rest: str) -> None:
    try:
        apply_changes(BASE, [f"{word} {rest}"])
    except InvalidParameter:
        pass


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("busybox", "busybox:1", True),
        ("busy*", "busybox:1", True),
        ("busybox:1*", "busybox:1.36", True),
        ("*", "joe/app:1", False),
        ("*/*", "joe/app:1", True),
        ("joe/a?p", "joe/app:1", True),
        ("r.example/*/[ab]*", "r.example/x/app:2", True),
        ("r.example/*/[^ab]*", "r.example/x/app:2", False),
        ("docker.io/library/busybox", "busybox:1", False),
    ],
)
def test_reference_filter(pattern: str, name: str, fits: bool) -> None:
    assert reference_matches(pattern, Reference.parse(name)) is fits


def test_archive_names_stay_inside() -> None:
    assert member_name(b"./a/../b/layer.tar") == "b/layer.tar"
    assert member_name(b"/abs") == "abs"
    for bad in (b"../x", b"a/../../x", b".."):
        with pytest.raises(InvalidParameter, match="outside"):
            member_name(bad)


@pytest.mark.parametrize(
    "changes",
    [
        ["ENV A=1\nLABEL b=2\nWORKDIR /c"],
        ["ENV A=1", "# a comment\n\nLABEL\tb=2", "WORKDIR \\\n  /c\n"],
        ["  ENV A=1\r\nLABEL \\", "b=2\nWORKDIR /c \\"],
    ],
)
def test_changes_are_the_lines_of_a_dockerfile(changes: list[str]) -> None:
    config = apply_changes(RunConfig(), changes)
    assert (config.env, config.labels, config.working_dir) == (("A=1",), {"b": "2"}, "/c")


def test_lines_end_at_newlines_alone() -> None:
    """What str.splitlines takes for a line's end may be in a value."""
    found = apply_changes(BASE, ['LABEL a="x\u2028y" b="1\x0b2"\n# a comment\nENV c=\\\nd'])
    assert found.labels is not None and found.env is not None
    assert (found.labels["a"], found.labels["b"]) == ("x\u2028y", "1\x0b2")
    assert "c=d" in found.env
