"""``pb.Definition`` decoded into the builder's graph.

A definition lists operations by the digest of their bytes; the last one only names the result.
It comes from a client: sizes are bounded, each named digest must be there, and what the graph
means is checked by :func:`llb.check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from portside.builder import llb
from portside.builder.llb import Output, Vertex
from portside.builder.wire.proto import ops_pb2 as pb
from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.platform import Platform

MAX_OP = 4 << 20
"""Bytes of one operation."""
NETWORKS = {0: "sandbox", 1: "host", 2: "none"}
"""``pb.NetMode``."""


def decode(definition: Any) -> Output | None:
    """The result of a definition; None for an empty root. InvalidParameter."""
    operations = getattr(definition, "def")  # a keyword of Python's
    if not operations:
        return None
    if len(operations) > llb.MAX_VERTICES:
        raise InvalidParameter(f"the build graph has more than {llb.MAX_VERTICES} vertices")
    found = _Decoder(operations, definition.metadata, _locations(definition.Source)).result()
    if found is not None:
        llb.check([found])
        if not 0 <= found.index < llb.output_count(found.vertex.op):
            raise InvalidParameter(f"{found.vertex.label}: there is no output {found.index}")
    return found


class _Decoder:
    def __init__(
        self, operations: Any, metadata: Any, locations: Mapping[str, tuple[str, int, int]]
    ) -> None:
        self._ops: dict[str, Any] = {}
        self._metadata, self._locations = metadata, locations
        self._vertices: dict[str, Vertex] = {}
        for data in operations:
            if len(data) > MAX_OP:
                raise InvalidParameter(f"an operation is larger than {MAX_OP} bytes")
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            try:
                self._ops[digest] = pb.Op.FromString(data)
            except DecodeError:
                raise InvalidParameter("an operation of the build graph is malformed") from None
            self._last = digest

    def result(self) -> Output | None:
        """The definition's result: the last operation has one input and does nothing."""
        last = self._ops[self._last]
        if len(last.inputs) != 1 or last.WhichOneof("op") is not None:
            raise InvalidParameter("the build graph does not end with its result")
        wanted = last.inputs[0]
        self._make_all(wanted.digest)
        return Output(self._vertices[wanted.digest], wanted.index)

    def _make_all(self, top: str) -> None:
        """Inputs first, without recursion. Digests of bytes cannot form a circle."""
        stack = [(top, False)]
        while stack:
            digest, expanded = stack.pop()
            if digest in self._vertices:
                continue
            op = self._ops.get(digest)
            if op is None:
                raise InvalidParameter(f"the build graph has no operation {digest[:80]}")
            if expanded:
                self._vertices[digest] = self._vertex(digest, op)
                continue
            stack.append((digest, True))
            stack += [(item.digest, False) for item in op.inputs]

    def _vertex(self, digest: str, op: Any) -> Vertex:
        inputs = tuple(Output(self._vertices[i.digest], i.index) for i in op.inputs)
        kind = op.WhichOneof("op")
        maker = _MAKERS.get(kind or "")
        if maker is None:
            raise NotImplementedHere(f"operations of the kind {kind!r} are not supported")
        platform = None
        if op.HasField("platform") and op.platform.OS:
            p = op.platform
            platform = Platform(os=p.OS, architecture=p.Architecture, variant=p.Variant)
        return Vertex(maker(getattr(op, kind)), inputs, platform, self._meta(digest))

    def _meta(self, digest: str) -> llb.VertexMeta:
        if digest not in self._metadata:
            return llb.VertexMeta()
        found = self._metadata[digest]
        place = self._locations.get(digest)
        return llb.VertexMeta(
            name=found.description.get("llb.customname", "")[:4096],
            ignore_cache=found.ignore_cache,
            group=found.progress_group.id,
            location=place[1:] if place else None,
            file=place[0] if place else "",
        )


def _locations(source: Any) -> dict[str, tuple[str, int, int]]:
    """File, first and last line of each operation that has a place in a file."""
    found = {}
    for digest, places in source.locations.items():
        for place in places.locations:
            if place.ranges and 0 <= place.sourceIndex < len(source.infos):
                lines = [r.start.line for r in place.ranges] + [r.end.line for r in place.ranges]
                name = source.infos[place.sourceIndex].filename
                found[digest] = (name, min(lines), max(lines))
                break
    return found


# -- operations ----------------------------------------------------------------------------------


def _source(op: Any) -> llb.SourceOp:
    return llb.SourceOp(identifier=op.identifier, attrs=dict(op.attrs))


def meta_of(meta: Any) -> llb.Meta:
    """``pb.Meta``: a command and its user."""
    proxy = {}
    for field, value in meta.proxy_env.ListFields():
        proxy[field.name] = proxy[field.name.upper()] = value
    return llb.Meta(
        args=tuple(meta.args),
        env=tuple(meta.env),
        cwd=meta.cwd or "/",
        user=meta.user,
        proxy=proxy,
        extra_hosts=tuple(llb.HostAlias(host=h.Host, ip=h.IP) for h in meta.extraHosts),
        hostname=meta.hostname,
        ulimits=tuple(llb.UlimitOpt(name=u.Name, soft=u.Soft, hard=u.Hard) for u in meta.ulimit),
        cgroup_parent=meta.cgroupParent,
        remove_mount_stubs_recursive=meta.removeMountStubsRecursive,
        valid_exit_codes=tuple(meta.validExitCodes),
    )


def _exec(op: Any) -> llb.ExecOp:
    return llb.ExecOp(
        meta=meta_of(op.meta),
        mounts=tuple(mount_of(mount) for mount in op.mounts),
        network=NETWORKS.get(op.network, "sandbox"),
        security="insecure" if op.security == 1 else "sandbox",
        secret_env=tuple(
            llb.SecretEnv(id=s.ID, name=s.name, optional=s.optional) for s in op.secretenv
        ),
        cdi_devices=tuple(
            llb.CDIDevice(name=device.name, optional=device.optional) for device in op.cdiDevices
        ),
    )


def mount_of(mount: Any) -> llb.Mount:
    """``pb.Mount``. InvalidParameter for an unknown type."""
    kind = {0: "bind", 1: "secret", 2: "ssh", 3: "cache", 4: "tmpfs"}.get(mount.mountType)
    if kind is None:
        raise InvalidParameter(f"unknown type of mount: {mount.mountType}")
    cache = secret = None
    if kind == "cache":
        sharing = {0: "shared", 1: "private", 2: "locked"}.get(mount.cacheOpt.sharing, "shared")
        cache = llb.CacheOpt(id=mount.cacheOpt.ID or mount.dest, sharing=sharing)
    elif kind in ("secret", "ssh"):
        option = mount.secretOpt if kind == "secret" else mount.SSHOpt
        secret = llb.SecretOpt(
            id=option.ID or ("default" if kind == "ssh" else ""), uid=option.uid, gid=option.gid,
            mode=option.mode & 0o7777, optional=option.optional,
        )  # fmt: skip
    return llb.Mount(
        dest=mount.dest, type=kind, input=mount.input, selector=mount.selector,
        output=mount.output, readonly=mount.readonly, cache=cache, secret=secret,
        tmpfs_size=mount.TmpfsOpt.size,
    )  # fmt: skip


def _file(op: Any) -> llb.FileOp:
    return llb.FileOp(actions=tuple(_action(action) for action in op.actions))


def _action(item: Any) -> llb.FileAction:
    kind = item.WhichOneof("action")
    if kind not in _ACTIONS:
        raise InvalidParameter("a file operation has an unknown action")
    action = _ACTIONS[kind](getattr(item, kind))
    return llb.FileAction(
        action=action, input=item.input, secondary=item.secondaryInput, output=item.output
    )


def _copy(action: Any) -> llb.CopyAction:
    mode = action.modeStr
    if not mode and action.mode >= 0:
        mode = f"{action.mode:o}"
    return llb.CopyAction(
        src=action.src,
        dest=action.dest,
        owner=_owner(action),
        mode=mode,
        follow_symlink=action.followSymlink,
        dir_copy_contents=action.dirCopyContents,
        attempt_unpack=action.attemptUnpackDockerCompatibility,
        create_dest_path=action.createDestPath,
        allow_wildcard=action.allowWildcard,
        allow_empty_wildcard=action.allowEmptyWildcard,
        timestamp=action.timestamp,
        include=tuple(action.include_patterns),
        exclude=tuple(action.exclude_patterns),
        always_replace=action.alwaysReplaceExistingDestPaths,
    )


def _mkfile(action: Any) -> llb.MakeFile:
    return llb.MakeFile(
        path=action.path, data=action.data, mode=action.mode & 0o7777, owner=_owner(action),
        timestamp=action.timestamp,
    )  # fmt: skip


def _mkdir(action: Any) -> llb.MakeDir:
    return llb.MakeDir(
        path=action.path, mode=action.mode & 0o7777, make_parents=action.makeParents,
        owner=_owner(action), timestamp=action.timestamp,
    )  # fmt: skip


def _rm(action: Any) -> llb.Remove:
    return llb.Remove(
        path=action.path, allow_not_found=action.allowNotFound, allow_wildcard=action.allowWildcard
    )


def _symlink(action: Any) -> llb.Symlink:
    return llb.Symlink(
        old_path=action.oldpath, new_path=action.newpath, owner=_owner(action),
        timestamp=action.timestamp,
    )  # fmt: skip


def _owner(action: Any) -> llb.ChownOpt | None:
    if not action.HasField("owner"):
        return None
    owner = action.owner
    return llb.ChownOpt(
        user=_user(owner.user) if owner.HasField("user") else None,
        group=_user(owner.group) if owner.HasField("group") else None,
    )


def _user(user: Any) -> llb.UserOpt:
    if user.WhichOneof("user") == "byName":
        return llb.UserOpt(name=user.byName.name, input=user.byName.input)
    return llb.UserOpt(id=user.byID)


def _diff(op: Any) -> llb.DiffOp:
    return llb.DiffOp(lower=op.lower.input, upper=op.upper.input)


_ACTIONS: dict[str, Any] = {
    "copy": _copy, "mkfile": _mkfile, "mkdir": _mkdir, "rm": _rm, "symlink": _symlink,
}  # fmt: skip
_MAKERS: dict[str, Any] = {
    "source": _source, "exec": _exec, "file": _file, "diff": _diff,
    "merge": lambda _: llb.MergeOp(),
}  # fmt: skip
