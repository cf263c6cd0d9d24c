"""A small SELinux policy for the guest: one type for containers, one for their files, categories.

What it does not name is allowed (``handleunknown allow``), so it says only what the test is about:
a container's process may touch what has the type of containers' files and whose categories are
among its own; the rest of the machine (``kernel_t``) may do everything.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

CATEGORIES = 1024
PROCESS, FILE, READ_ONLY = "container_t", "container_file_t", "container_ro_file_t"
NAME = "portsidetest"
_INITIAL = (
    "kernel security unlabeled fs file file_labels init any_socket port netif netmsg node "
    "igmp_packet icmp_socket tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net "
    "sysctl_net_unix sysctl_vm sysctl_dev kmod policy scmp_packet devnull"
).split()
"""Initial SIDs in the kernel's order (security/selinux/include/initial_sid_to_string.h)."""
_CLASSES = {
    "file": "read write append open create unlink rename link setattr execute entrypoint",
    "dir": "read write search open add_name remove_name",
    "process": "transition dyntransition ptrace signal",
    "key": "view read write search link setattr create",
    # of these the policy says nothing, but without the class no label can be set
    **dict.fromkeys(("lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file"), "execmod"),
}
_TYPES = {
    "kernel_t",
    "file_t",
    "kernfs_t",
    "memory_t",
    PROCESS,
    "container_other_t",
    FILE,
    READ_ONLY,
}
_XATTR = ("overlay", "ext4")
_TRANS = ("tmpfs", "devpts", "devtmpfs", "mqueue", "shm")
_TASK = ("pipefs", "sockfs")
_GENFS = ("proc", "sysfs", "selinuxfs", "cgroup", "cgroup2", "rootfs", "securityfs", "9p")


def text() -> str:
    """The policy in CIL."""
    everything = f"((s0) (s0 (range c0 c{CATEGORIES - 1})))"
    plain = "((s0) (s0))"

    def context(kind: str, levels: str = plain, role: str = "object_r") -> str:
        return f"(system_u {role} {kind} {levels})"

    names = [f"c{number}" for number in range(CATEGORIES)]
    lines = ["(handleunknown allow)", "(mls true)", "(policycap nnp_nosuid_transition)"]
    lines += [f"(class {name} ({perms}))" for name, perms in _CLASSES.items()]
    lines.append(f"(classorder ({' '.join(_CLASSES)}))")
    lines += [f"(sid {name})" for name in _INITIAL]
    lines.append(f"(sidorder ({' '.join(_INITIAL)}))")
    lines += ["(sensitivity s0)", "(sensitivityorder (s0))"]
    lines += [f"(category {name})" for name in names]
    lines += [f"(categoryorder ({' '.join(names)}))"]
    lines += [f"(sensitivitycategory s0 (range c0 c{CATEGORIES - 1}))"]
    lines += ["(user system_u)", "(role system_r)", "(role object_r)"]
    lines += ["(userrole system_u system_r)", "(userrole system_u object_r)"]
    lines += ["(userlevel system_u (s0))", f"(userrange system_u {everything})"]
    for kind in sorted(_TYPES):
        lines += [f"(type {kind})", f"(roletype object_r {kind})", f"(roletype system_r {kind})"]
    for name in _INITIAL:
        kind, levels = ("kernel_t", everything) if name in ("kernel", "init") else ("file_t", plain)
        role = "system_r" if kind == "kernel_t" else "object_r"
        lines.append(f"(sidcontext {name} {context(kind, levels, role)})")
    lines += [f"(fsuse xattr {name} {context('file_t')})" for name in _XATTR]
    lines += [f"(fsuse trans {name} {context('memory_t')})" for name in _TRANS]
    lines += [f"(fsuse task {name} {context('file_t')})" for name in _TASK]
    lines += [f"(genfscon {name} / {context('kernfs_t')})" for name in _GENFS]
    for name in ("file", "dir", "lnk_file", "sock_file", "fifo_file"):
        lines.append(f"(defaultrange {name} target low)")  # a new file has its directory's level
    for name, perms in _CLASSES.items():
        for kind in sorted(_TYPES):
            lines.append(f"(allow kernel_t {kind} ({name} ({perms})))")
    for process in (PROCESS, "container_other_t"):
        files, directories = _CLASSES["file"], _CLASSES["dir"]
        lines.append(f"(allow {process} {FILE} (file ({files})))")
        lines.append(f"(allow {process} {FILE} (dir ({directories})))")
        lines.append(f"(allow {process} {READ_ONLY} (file (read open execute entrypoint)))")
        lines.append(f"(allow {process} {READ_ONLY} (dir (read search open)))")
        for kind in ("kernfs_t", PROCESS, "container_other_t"):
            lines.append(f"(allow {process} {kind} (file (read write open)))")
            lines.append(f"(allow {process} {kind} (dir (read search open)))")
        lines.append(f"(allow {process} {process} (process ({_CLASSES['process']})))")
        lines.append(f"(allow {process} {process} (key ({_CLASSES['key']})))")
    higher = "(or (dom h1 h2) (eq t1 kernel_t))"
    for name in ("file", "dir"):
        lines.append(f"(mlsconstrain ({name} ({_CLASSES[name]})) {higher})")
    return "\n".join(lines) + "\n"


def load(directory: Path) -> None:
    """Compile the policy by secilc(8), load it, and say in /etc/selinux what containers get."""
    source, binary = directory / "policy.cil", directory / "policy"
    source.write_text(text())
    version = min(33, int(Path("/sys/fs/selinux/policyvers").read_text()))
    command = ["secilc", "-c", str(version), "-o", str(binary), "-f", "/dev/null", str(source)]
    subprocess.run(command, check=True)
    with open("/sys/fs/selinux/load", "wb", buffering=0) as file:
        file.write(binary.read_bytes())
    contexts = Path("/etc/selinux") / NAME / "contexts"
    contexts.mkdir(parents=True, exist_ok=True)
    Path("/etc/selinux/config").write_text(f"SELINUX=enforcing\nSELINUXTYPE={NAME}\n")
    (contexts / "lxc_contexts").write_text(
        f'process = "system_u:system_r:{PROCESS}:s0"\nfile = "system_u:object_r:{FILE}:s0"\n'
        f'ro_file = "system_u:object_r:{READ_ONLY}:s0"\n'
    )


if __name__ == "__main__":
    print(text(), end="")
