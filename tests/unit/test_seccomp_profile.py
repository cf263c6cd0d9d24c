"""Docker's seccomp profile format, and the default profile's shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.model import capabilities
from portside.model import ociruntime as oci
from portside.model.errors import InvalidParameter
from portside.runtime import seccomp_default
from portside.runtime.seccomp_profile import (
    Condition,
    Profile,
    Rule,
    load,
    parse_kernel,
    resolve,
)


def allowed(value: oci.Seccomp) -> set[str]:
    return {
        name
        for rule in value.syscalls
        for name in rule.names
        if rule.action == "SCMP_ACT_ALLOW" and not rule.args
    }


def test_no_call_is_listed_twice_among_the_subjects() -> None:
    words = [word for names in seccomp_default._SUBJECTS.values() for word in names.split()]
    assert len(words) == len(set(words))


def test_capabilities_extend_the_default() -> None:
    base = allowed(resolve(seccomp_default.profile(), capabilities.DEFAULT, "x86_64", (6, 1)))
    assert {"read", "execve", "ptrace", "chroot", "arch_prctl", "modify_ldt"} <= base
    assert not {"mount", "bpf", "clone3", "unshare", "keyctl", "io_uring_setup", "reboot"} & base
    for cap, names in seccomp_default._BY_CAPABILITY.items():
        more = allowed(resolve(seccomp_default.profile(), (cap,), "x86_64", (6, 1)))
        assert set(names.split()) <= more


def test_ptrace_needs_a_kernel_without_its_hole() -> None:
    old = allowed(resolve(seccomp_default.profile(), (), "x86_64", (4, 7)))
    assert "ptrace" not in old
    assert "ptrace" in allowed(resolve(seccomp_default.profile(), (), "x86_64", (4, 8)))
    by_capability = resolve(seccomp_default.profile(), ("CAP_SYS_PTRACE",), "x86_64", (4, 7))
    assert "ptrace" in allowed(by_capability)


def test_architectures_and_their_own_calls() -> None:
    arm = resolve(seccomp_default.profile(), (), "aarch64", (6, 1))
    assert arm.architectures == ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
    assert "set_tls" in allowed(arm)
    assert "arch_prctl" not in allowed(arm)
    intel = resolve(seccomp_default.profile(), (), "x86_64", (6, 1))
    assert intel.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


def test_clone_flags_are_the_second_argument_on_s390() -> None:
    for machine, index in (("x86_64", 0), ("s390x", 1)):
        value = resolve(seccomp_default.profile(), (), machine, (6, 1))
        clones = [rule for rule in value.syscalls if rule.names == ("clone",)]
        assert [rule.args[0].index for rule in clones] == [index]


def test_clone3_does_not_exist_without_sys_admin() -> None:
    value = resolve(seccomp_default.profile(), (), "x86_64", (6, 1))
    (rule,) = [rule for rule in value.syscalls if "clone3" in rule.names]
    assert (rule.action, rule.errno_ret) == ("SCMP_ACT_ERRNO", 38)
    admin = resolve(seccomp_default.profile(), ("CAP_SYS_ADMIN",), "x86_64", (6, 1))
    assert "clone3" in allowed(admin)


def test_conditions() -> None:
    def holds(includes: Condition | None = None, excludes: Condition | None = None) -> bool:
        rule = Rule(names=("x",), action="SCMP_ACT_ALLOW", includes=includes, excludes=excludes)
        profile = Profile(default_action="SCMP_ACT_ERRNO", syscalls=(rule,))
        return bool(resolve(profile, ("CAP_KILL",), "x86_64", (5, 10)).syscalls)

    assert holds()
    assert holds(includes=Condition(caps=("CAP_KILL",)))
    assert not holds(includes=Condition(caps=("CAP_KILL", "CAP_CHOWN")))
    assert not holds(excludes=Condition(caps=("CAP_KILL", "CAP_CHOWN")))
    assert holds(includes=Condition(arches=("arm64", "amd64")))
    assert not holds(includes=Condition(arches=("arm64",)))
    assert not holds(excludes=Condition(arches=("amd64",)))
    assert holds(includes=Condition(min_kernel="5.10"))
    assert not holds(includes=Condition(min_kernel="5.11"))
    assert not holds(excludes=Condition(min_kernel="4.0"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[]", "Decoding seccomp profile failed"),
        ('{"defaultAction": 5}', "Decoding seccomp profile failed"),
        ("{}", "without a defaultAction"),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86"],
                    "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
                }
            ),
            "use either 'architectures' or 'archMap'",
        ),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}],
                }
            ),
            "use either 'name' or 'names'",
        ),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["b"], "includes": {"minKernel": "new"}}],
                }
            ),
            "invalid kernel version",
        ),
        ("x" * (5 << 20), "larger than"),
    ],
)
def test_bad_profiles_say_why(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        load(text, ())


def test_kernel_versions() -> None:
    assert parse_kernel("4.8") == (4, 8)
    for bad in ("", "4", "0.0", "a.b", "4.8.1"):
        with pytest.raises(InvalidParameter):
            parse_kernel(bad)


@given(st.binary(max_size=200))
def test_wild_bytes_are_refused_as_a_bad_request(data: bytes) -> None:
    try:
        load(data, ())
    except InvalidParameter:
        return
    assert json.loads(data)["defaultAction"]
