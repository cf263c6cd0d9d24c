"""The builder's graph as ``pb.Definition``, for clients that build on a result."""

from __future__ import annotations

import hashlib
from typing import Any

from portside.builder import llb
from portside.builder.llb import Output, Vertex
from portside.builder.wire.proto import ops_pb2 as pb

_MOUNT_TYPES = {"bind": 0, "secret": 1, "ssh": 2, "cache": 3, "tmpfs": 4}
_SHARING = {"shared": 0, "private": 1, "locked": 2}
_NETWORKS = {"sandbox": 0, "host": 1, "none": 2}
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def encode(output: Output | None) -> Any:
    """Empty for an empty root."""
    definition = pb.Definition()
    if output is None:
        return definition
    operations = getattr(definition, "def")  # a keyword of Python's
    digests: dict[int, str] = {}

    def add(op: Any) -> str:
        data = op.SerializeToString(deterministic=True)
        operations.append(data)
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    for vertex in llb.walk([output]):
        op = operation(vertex)
        op.inputs.extend(_inputs(vertex.inputs, digests))
        digest = digests[id(vertex)] = add(op)
        metadata = definition.metadata[digest]
        metadata.ignore_cache = vertex.meta.ignore_cache
        if vertex.meta.name:
            metadata.description["llb.customname"] = vertex.meta.name
    add(pb.Op(inputs=_inputs((output,), digests)))
    return definition


def _inputs(outputs: tuple[Output, ...], digests: dict[int, str]) -> list[Any]:
    return [pb.Input(digest=digests[id(i.vertex)], index=i.index) for i in outputs]


def operation(vertex: Vertex) -> Any:
    """A vertex as ``pb.Op``, without its inputs."""
    op, found = vertex.op, pb.Op()
    if vertex.platform is not None:
        p = vertex.platform
        found.platform.CopyFrom(
            pb.Platform(OS=p.os, Architecture=p.architecture, Variant=p.variant)
        )
    if isinstance(op, llb.SourceOp):
        found.source.CopyFrom(pb.SourceOp(identifier=op.identifier, attrs=op.attrs))
    elif isinstance(op, llb.ExecOp):
        found.exec.CopyFrom(_exec(op))
    elif isinstance(op, llb.FileOp):
        found.file.CopyFrom(pb.FileOp(actions=[_action(item) for item in op.actions]))
    elif isinstance(op, llb.MergeOp):
        inputs = [pb.MergeInput(input=number) for number in range(len(vertex.inputs))]
        found.merge.CopyFrom(pb.MergeOp(inputs=inputs))
    else:
        found.diff.CopyFrom(
            pb.DiffOp(
                lower=pb.LowerDiffInput(input=op.lower), upper=pb.UpperDiffInput(input=op.upper)
            )
        )
    return found


def _exec(op: llb.ExecOp) -> Any:
    meta = op.meta
    proxy = {k.lower(): v for k, v in meta.proxy.items() if k.lower() in _PROXIES}
    return pb.ExecOp(
        meta=pb.Meta(
            args=meta.args,
            env=meta.env,
            cwd=meta.cwd,
            user=meta.user,
            proxy_env=pb.ProxyEnv(**proxy) if proxy else None,
            extraHosts=[pb.HostIP(Host=h.host, IP=h.ip) for h in meta.extra_hosts],
            hostname=meta.hostname,
            ulimit=[pb.Ulimit(Name=u.name, Soft=u.soft, Hard=u.hard) for u in meta.ulimits],
            cgroupParent=meta.cgroup_parent,
            removeMountStubsRecursive=meta.remove_mount_stubs_recursive,
            validExitCodes=meta.valid_exit_codes,
        ),
        mounts=[_mount(mount) for mount in op.mounts],
        network=_NETWORKS[op.network],
        security=1 if op.security == "insecure" else 0,
        secretenv=[pb.SecretEnv(ID=s.id, name=s.name, optional=s.optional) for s in op.secret_env],
        cdiDevices=[
            pb.CDIDevice(name=each.name, optional=each.optional) for each in op.cdi_devices
        ],
    )


def _mount(mount: llb.Mount) -> Any:
    found = pb.Mount(
        input=mount.input, selector=mount.selector, dest=mount.dest, output=mount.output,
        readonly=mount.readonly, mountType=_MOUNT_TYPES[mount.type],
    )  # fmt: skip
    if mount.cache is not None:
        cache = pb.CacheOpt(ID=mount.cache.id, sharing=_SHARING[mount.cache.sharing])
        found.cacheOpt.CopyFrom(cache)
    if mount.secret is not None:
        s = mount.secret
        kind, target = (
            (pb.SSHOpt, found.SSHOpt) if mount.type == "ssh" else (pb.SecretOpt, found.secretOpt)
        )
        target.CopyFrom(kind(ID=s.id, uid=s.uid, gid=s.gid, mode=s.mode, optional=s.optional))
    if mount.tmpfs_size:
        found.TmpfsOpt.size = mount.tmpfs_size
    return found


def _action(item: llb.FileAction) -> Any:
    found = pb.FileAction(input=item.input, secondaryInput=item.secondary, output=item.output)
    action = item.action
    if isinstance(action, llb.CopyAction):
        found.copy.CopyFrom(
            pb.FileActionCopy(
                src=action.src, dest=action.dest, owner=_owner(action.owner), mode=-1,
                followSymlink=action.follow_symlink, dirCopyContents=action.dir_copy_contents,
                attemptUnpackDockerCompatibility=action.attempt_unpack,
                createDestPath=action.create_dest_path, allowWildcard=action.allow_wildcard,
                allowEmptyWildcard=action.allow_empty_wildcard, timestamp=action.timestamp,
                include_patterns=action.include, exclude_patterns=action.exclude,
                alwaysReplaceExistingDestPaths=action.always_replace, modeStr=action.mode,
            )
        )  # fmt: skip
    elif isinstance(action, llb.MakeFile):
        found.mkfile.CopyFrom(
            pb.FileActionMkFile(path=action.path, mode=action.mode, data=action.data,
                                owner=_owner(action.owner), timestamp=action.timestamp)
        )  # fmt: skip
    elif isinstance(action, llb.MakeDir):
        found.mkdir.CopyFrom(
            pb.FileActionMkDir(path=action.path, mode=action.mode, makeParents=action.make_parents,
                               owner=_owner(action.owner), timestamp=action.timestamp)
        )  # fmt: skip
    elif isinstance(action, llb.Remove):
        found.rm.CopyFrom(
            pb.FileActionRm(path=action.path, allowNotFound=action.allow_not_found,
                            allowWildcard=action.allow_wildcard)
        )  # fmt: skip
    else:
        found.symlink.CopyFrom(
            pb.FileActionSymlink(oldpath=action.old_path, newpath=action.new_path,
                                 owner=_owner(action.owner), timestamp=action.timestamp)
        )  # fmt: skip
    return found


def _owner(owner: llb.ChownOpt | None) -> Any:
    if owner is None:
        return None
    return pb.ChownOpt(user=_user(owner.user), group=_user(owner.group))


def _user(user: llb.UserOpt | None) -> Any:
    if user is None:
        return None
    if user.name:
        return pb.UserOpt(byName=pb.NamedUserOpt(name=user.name, input=user.input))
    return pb.UserOpt(byID=max(user.id, 0))
