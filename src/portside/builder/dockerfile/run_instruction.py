"""RUN: a command in the stage's root, with its mounts, secrets and here-documents."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portside.builder import llb
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import Span
from portside.builder.dockerfile.frontend_values import (
    PROXIES,
    Lent,
    StageState,
    command_words,
)
from portside.builder.dockerfile.lines import mark_of
from portside.builder.dockerfile.run_mounts import MountFlag, parse_device, parse_mount
from portside.builder.dockerfile.transfers import destination

if TYPE_CHECKING:
    from portside.builder.dockerfile.frontend import Conversion


async def run(conversion: Conversion, state: StageState, instruction: ins.Run) -> None:
    command = instruction.command
    args = command_words(state, command, conversion.options.phrases)
    mounts = [llb.Mount(dest="/", input=0 if state.output else llb.SCRATCH, output=0)]
    inputs = [state.output] if state.output else []
    if command.heredocs:
        args, script = _script(conversion, state, command)
        if script is not None:
            mounts.append(llb.Mount(dest="/dev/pipes", input=len(inputs), readonly=True))
            inputs.append(script)
    secrets: list[llb.SecretEnv] = []
    for text in instruction.mounts:
        flag = parse_mount(text, lambda word: conversion.expanded(state, word, instruction))
        await _mount(conversion, state, instruction, flag, mounts, inputs, secrets)
    agent = next((mount.dest for mount in mounts if mount.type == "ssh"), "")
    network = (
        conversion.expanded(state, instruction.network, instruction) or conversion.options.network
    )
    network = {"": "sandbox", "default": "sandbox"}.get(network, network)
    op = llb.ExecOp(
        meta=_exec_meta(conversion, state, args, agent),
        mounts=tuple(mounts),
        network=network,
        security=instruction.security or "sandbox",
        secret_env=tuple(secrets),
        cdi_devices=tuple(
            parse_device(conversion.expanded(state, text, instruction))
            for text in instruction.devices
        ),
        shm_size=conversion.options.shm_size,
    )
    suffix = ""
    if _is_script(conversion, command):
        suffix = f" ({_summary(command.heredocs[0].content)})"
    meta = conversion.meta(state, instruction, suffix)
    state.output = llb.Vertex(op, tuple(inputs), state.platform, meta).output()
    phrases = conversion.options.phrases
    declared = {
        name: state.args.get(name) for name in state.declared
        if not phrases.is_classic or name not in PROXIES
    }  # fmt: skip
    created_by = phrases.run(args, declared, {**state.env, **state.hiding})
    conversion.record(state, instruction.text, instruction.span, created_by, changed=True)


def _exec_meta(
    conversion: Conversion, state: StageState, args: Sequence[str], agent: str = ""
) -> llb.Meta:
    """``agent``: where the client's SSH agent is mounted."""
    shown = {k: v for k, v in state.args.items() if k not in PROXIES}
    hiding = {k: v for k, v in state.hiding.items() if k not in PROXIES}
    env = {**shown, **state.env, **hiding}
    if agent:
        env.setdefault("SSH_AUTH_SOCK", agent)
    return llb.Meta(
        args=tuple(args),
        env=tuple(f"{k}={v}" for k, v in env.items()),
        cwd=state.workdir,
        user=state.config.user,
        proxy=_proxies(conversion),
        extra_hosts=conversion.options.extra_hosts,
        hostname=conversion.options.hostname,
        ulimits=conversion.options.ulimits,
        cgroup_parent=conversion.options.cgroup_parent,
    )


def _proxies(conversion: Conversion) -> dict[str, str]:
    """Proxies that the client gives; BuildKit sets them in lower and in upper case."""
    found = {}
    for name, value in conversion.options.build_args.items():
        if name in PROXIES and value is not None:
            cases = (name,) if conversion.options.phrases.is_classic else (
                name.lower(), name.upper())  # fmt: skip
            found.update(dict.fromkeys(cases, value))
    return found


def _is_script(conversion: Conversion, command: ins.Command) -> bool:
    """Whether the command is nothing but a here-document."""
    return (
        len(command.heredocs) == 1
        and mark_of(command.words[0].strip(), conversion.file.escape) is not None
    )


def _summary(text: str) -> str:
    """The first line of a script."""
    first, *more = text.strip().splitlines() or [""]
    return f"{first}..." if more else first


def _script(
    conversion: Conversion, state: StageState, command: ins.Command
) -> tuple[tuple[str, ...], llb.Output | None]:
    """A here-document alone is the script; else the shell reads it."""
    text, first = command.words[0], command.heredocs[0]
    if _is_script(conversion, command):
        if first.content.startswith("#!"):
            action = llb.MakeFile(path=f"/{first.name}", data=first.content.encode(
                "utf-8", "surrogateescape"), mode=0o755)  # fmt: skip
            meta = llb.VertexMeta(name=f"preparing here-document {first.name}")
            words = (*state.shell, f"/dev/pipes/{first.name}")
            return words, llb.file_op(None, [(action, None)], meta)
        return (*state.shell, first.content), None
    body = "".join(f"\n{item.content}{item.name}" for item in command.heredocs)
    return (*state.shell, text + body), None


async def _mount(
    conversion: Conversion,
    state: StageState,
    instruction: ins.Run,
    flag: MountFlag,
    mounts: list[llb.Mount],
    inputs: list[llb.Output],
    secrets: list[llb.SecretEnv],
) -> None:
    target = destination(state.workdir, flag.target) if flag.target else ""
    if flag.type in ("bind", "cache") and (flag.type == "bind" or flag.source_stage):
        source, _ = await conversion.source(state, flag.source_stage, instruction)
    else:
        source = None
    number = llb.SCRATCH
    if source is not None:
        number = len(inputs)
        inputs.append(source)
    target = target.rstrip("/") or target
    if flag.type == "bind":
        mounts.append(
            llb.Mount(dest=target, input=number, selector=_inside(flag.source),
                      readonly=flag.readonly)
        )  # fmt: skip
    elif flag.type == "cache":
        identifier = f"{conversion.options.cache_namespace}/{flag.id or target}".lstrip("/")
        if source is None and (flag.uid or flag.gid or flag.mode is not None):
            number = len(inputs)
            inputs.append(_owned_directory(flag))
            selector = "/cache"
        else:
            selector = _inside(flag.source)
        mounts.append(
            llb.Mount(dest=target, type="cache", input=number, selector=selector,
                      readonly=flag.readonly,
                      cache=llb.CacheOpt(id=identifier, sharing=flag.sharing))
        )  # fmt: skip
    elif flag.type == "tmpfs":
        mounts.append(llb.Mount(dest=target, type="tmpfs", tmpfs_size=flag.size))
    else:
        _secret(conversion, flag, target, mounts, secrets, instruction.span)


def _secret(
    conversion: Conversion,
    flag: MountFlag,
    target: str,
    mounts: list[llb.Mount],
    secrets: list[llb.SecretEnv],
    span: Span,
) -> None:
    known = conversion.agents if flag.type == "ssh" else conversion.secrets
    name = flag.id or ("default" if flag.type == "ssh" else posixpath.basename(target))
    first = known.get(name, Lent(False, span))
    known[name] = first._replace(required=first.required or flag.required)
    if flag.type == "ssh":
        identifier = flag.id or "default"
        dest = target or f"/run/buildkit/ssh_agent.{sum(m.type == 'ssh' for m in mounts)}"
        mode = 0o600 if flag.mode is None else flag.mode
    else:
        identifier = flag.id or posixpath.basename(target)
        dest = target or f"/run/secrets/{posixpath.basename(identifier)}"
        mode = 0o400 if flag.mode is None else flag.mode
        if flag.env:
            secrets.append(llb.SecretEnv(id=identifier, name=flag.env, optional=not flag.required))
            if not flag.target:
                return
    option = llb.SecretOpt(
        id=identifier, uid=flag.uid, gid=flag.gid, mode=mode, optional=not flag.required
    )
    mounts.append(llb.Mount(dest=dest, type=flag.type, secret=option))


def _owned_directory(flag: MountFlag) -> llb.Output:
    owner = llb.ChownOpt(user=llb.UserOpt(id=flag.uid), group=llb.UserOpt(id=flag.gid))
    mode = 0o755 if flag.mode is None else flag.mode
    action = llb.MakeDir(path="/cache", mode=mode, owner=owner, timestamp=0)
    meta = llb.VertexMeta(name="create a cache directory")
    return llb.file_op(None, [(action, None)], meta)


def _inside(path: str) -> str:
    """A path in another root; empty for the whole."""
    found = posixpath.normpath(posixpath.join("/", path)).lstrip("/")
    return f"/{found}" if found else ""
