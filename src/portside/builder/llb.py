"""LLB, BuildKit's low-level build graph, as plain values.

The vocabulary is that of BuildKit's ``solver/pb/ops.proto``, so that a ``pb.Definition`` can be
decoded into these values and encoded from them field by field: an operation has numbered
inputs, which are outputs of other vertices, and numbered outputs. Mounts and file actions name
inputs by number; -1 stands for an empty root.

Values are frozen and made from the leaves up, so that a graph has no cycles. A vertex's digest
covers its operation, its platform and its inputs' digests and indexes; names and other
metadata do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.platform import Platform

SCRATCH = -1
"""No input: an empty root."""
NO_OUTPUT = -1
MAX_VERTICES = 100_000
"""Vertices of one graph."""

# identifiers of sources begin with one of these
IMAGE, LOCAL, GIT = "docker-image://", "local://", "git://"
HTTP, HTTPS, OCI_LAYOUT = "http://", "https://", "oci-layout://"
SCHEMES = (IMAGE, LOCAL, GIT, HTTP, HTTPS, OCI_LAYOUT)


# -- sources -------------------------------------------------------------------------------------


class SourceOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="source"):
    """Content from outside: ``identifier`` with its scheme, attributes as BuildKit names them
    (``local.includepatterns``, ``git.keepgitdir``, ``http.checksum`` …)."""

    identifier: str
    attrs: dict[str, str] = {}

    @property
    def scheme(self) -> str:
        return next((s for s in SCHEMES if self.identifier.startswith(s)), "")

    @property
    def name(self) -> str:
        """The identifier without its scheme; a URL keeps it."""
        if self.scheme in (HTTP, HTTPS):
            return self.identifier
        return self.identifier.removeprefix(self.scheme)


# -- exec ----------------------------------------------------------------------------------------


class HostAlias(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    host: str
    ip: str


class UlimitOpt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    soft: int
    hard: int


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process: arguments, environment, directory and user."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    proxy: dict[str, str] = {}
    """Proxy variables for the step that are not part of its identity."""
    extra_hosts: tuple[HostAlias, ...] = ()
    hostname: str = ""
    ulimits: tuple[UlimitOpt, ...] = ()
    cgroup_parent: str = ""
    remove_mount_stubs_recursive: bool = False
    valid_exit_codes: tuple[int, ...] = ()


class CacheOpt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    sharing: str = "shared"
    """shared, private or locked."""


class SecretOpt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Also of ``ssh`` mounts."""

    id: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o400
    optional: bool = False


class Mount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``type`` is bind, cache, tmpfs, secret or ssh."""

    dest: str
    type: str = "bind"
    input: int = SCRATCH
    selector: str = ""
    output: int = NO_OUTPUT
    readonly: bool = False
    cache: CacheOpt | None = None
    secret: SecretOpt | None = None
    tmpfs_size: int = 0
    """Bytes; 0 is the kernel's default."""


class SecretEnv(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    optional: bool = False


class CDIDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device of the machine by its name in the Container Device Interface."""

    name: str
    optional: bool = False


class ExecOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="exec"):
    meta: Meta
    mounts: tuple[Mount, ...]
    network: str = "sandbox"
    """sandbox, host or none."""
    security: str = "sandbox"
    """sandbox or insecure."""
    secret_env: tuple[SecretEnv, ...] = ()
    cdi_devices: tuple[CDIDevice, ...] = ()
    shm_size: int = 0
    """Bytes of /dev/shm; 0 is the engine's default. (A request's option, not in ops.proto.)"""

    @property
    def root(self) -> Mount:
        return next(mount for mount in self.mounts if mount.dest == "/")


# -- files ---------------------------------------------------------------------------------------


class UserOpt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``name`` is looked up in the passwd and group files of the root of ``input``."""

    name: str = ""
    id: int = -1
    input: int = SCRATCH


class ChownOpt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    user: UserOpt | None = None
    group: UserOpt | None = None


class CopyAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="copy"):
    src: str
    dest: str
    owner: ChownOpt | None = None
    """None keeps the source's."""
    mode: str = ""
    """Octal or symbolic; empty keeps the source's."""
    follow_symlink: bool = False
    dir_copy_contents: bool = False
    attempt_unpack: bool = False
    create_dest_path: bool = False
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    timestamp: int = -1
    """Nanoseconds since the epoch of what is made; -1 keeps the source's."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    parents: str = ""
    """For ``COPY --parents``: the part of the source's path that is kept begins here (``/`` or
    what comes before the pivot ``/./``); empty: none is kept. (Spelt as include patterns in
    ops.proto.)"""
    always_replace: bool = False


class MakeFile(msgspec.Struct, frozen=True, kw_only=True, tag="mkfile"):
    # omit_defaults goes by identity: an equal mode above 256 would give another digest
    path: str
    data: bytes = b""
    mode: int = 0o644
    owner: ChownOpt | None = None
    timestamp: int = -1


class MakeDir(msgspec.Struct, frozen=True, kw_only=True, tag="mkdir"):
    # omit_defaults goes by identity: an equal mode above 256 would give another digest
    path: str
    mode: int = 0o755
    make_parents: bool = False
    owner: ChownOpt | None = None
    timestamp: int = -1


class Remove(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rm"):
    path: str
    allow_not_found: bool = False
    allow_wildcard: bool = False


class Symlink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="symlink"):
    old_path: str
    new_path: str
    owner: ChownOpt | None = None
    timestamp: int = -1


Action: TypeAlias = CopyAction | MakeFile | MakeDir | Remove | Symlink


class FileAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action. ``input`` and ``secondary`` count the vertex's inputs first, then the actions
    before this one."""

    action: Action
    input: int = SCRATCH
    secondary: int = SCRATCH
    output: int = NO_OUTPUT


class FileOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="file"):
    actions: tuple[FileAction, ...]


class MergeOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="merge"):
    """All inputs, one over the other, the first at the bottom."""


class DiffOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="diff"):
    """The changes that turn the input ``lower`` into the input ``upper``."""

    lower: int = SCRATCH
    upper: int = SCRATCH


Op: TypeAlias = SourceOp | ExecOp | FileOp | MergeOp | DiffOp


# -- vertices ------------------------------------------------------------------------------------


class VertexMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is reported about a vertex; not part of its identity."""

    name: str = ""
    """Such as ``[2/5] RUN make``."""
    ignore_cache: bool = False
    group: str = ""
    """The stage, for progress."""
    location: tuple[int, int] | None = None
    """First and last line in the Dockerfile."""
    file: str = ""


@dataclass(frozen=True, eq=False)
class Vertex:
    op: Op
    inputs: tuple[Output, ...] = ()
    platform: Platform | None = None
    meta: VertexMeta = field(default_factory=VertexMeta)

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the definition."""
        return definition_digest(self, [(i.vertex.digest, i.index) for i in self.inputs])

    def output(self, index: int = 0) -> Output:
        return Output(self, index)

    @property
    def label(self) -> str:
        return self.meta.name or default_name(self.op)


@dataclass(frozen=True, eq=False)
class Output:
    """One output of a vertex: a file tree."""

    vertex: Vertex
    index: int = 0


def definition_digest(vertex: Vertex, inputs: Iterable[tuple[str, int]]) -> str:
    """The digest of a vertex whose inputs have the given digests."""
    hasher = hashlib.sha256(operation_bytes(vertex))
    for digest, index in inputs:
        hasher.update(f"|{digest}:{index}".encode())
    return f"sha256:{hasher.hexdigest()}"


def operation_bytes(vertex: Vertex) -> bytes:
    """The operation and its platform in one canonical form; proxies do not count."""
    op = vertex.op
    if isinstance(op, ExecOp) and op.meta.proxy:
        op = msgspec.structs.replace(op, meta=msgspec.structs.replace(op.meta, proxy={}))
    return _encode((op, str(vertex.platform or "")))


_encode = msgspec.json.Encoder(order="deterministic").encode


def default_name(op: Op) -> str:
    if isinstance(op, SourceOp):
        return op.identifier
    if isinstance(op, ExecOp):
        return " ".join(op.meta.args)
    if isinstance(op, FileOp):
        return ", ".join(action_name(item.action) for item in op.actions)
    return "merge" if isinstance(op, MergeOp) else "diff"


def action_name(action: Action) -> str:
    if isinstance(action, CopyAction):
        return f"copy {action.src} {action.dest}"
    if isinstance(action, Symlink):
        return f"symlink {action.old_path} -> {action.new_path}"
    kind = type(action).__struct_config__.tag
    return f"{kind} {action.path}"


def walk(outputs: Iterable[Output], without: Container[int] = ()) -> Iterator[Vertex]:
    """Every vertex that the outputs need, each once, inputs before what uses them. ``without``:
    by their ``id()``, vertices that are left out with what only they need.

    InvalidParameter beyond :data:`MAX_VERTICES`. Without recursion: a client may send a long
    chain.
    """
    seen: set[int] = set()
    stack = [(output.vertex, False) for output in reversed(list(outputs))]
    while stack:
        vertex, expanded = stack.pop()
        if expanded:
            yield vertex
            continue
        if id(vertex) in seen or id(vertex) in without:
            continue
        seen.add(id(vertex))
        if len(seen) > MAX_VERTICES:
            raise InvalidParameter(f"the build graph has more than {MAX_VERTICES} vertices")
        stack.append((vertex, True))
        stack += [(item.vertex, False) for item in vertex.inputs]


def check(outputs: Iterable[Output]) -> None:
    """InvalidParameter when an operation names what it does not have."""
    for vertex in walk(outputs):
        _ = vertex.digest  # leaves first: no deep recursion later
        count = len(vertex.inputs)
        for item in vertex.inputs:
            if not 0 <= item.index < output_count(item.vertex.op):
                raise InvalidParameter(f"{vertex.label}: an input has no output {item.index}")
        for number in _named_inputs(vertex.op):
            if not SCRATCH <= number < count:
                raise InvalidParameter(f"{vertex.label}: there is no input {number}")


def output_count(op: Op) -> int:
    if isinstance(op, ExecOp):
        return max((mount.output for mount in op.mounts), default=NO_OUTPUT) + 1
    if isinstance(op, FileOp):
        return max((item.output for item in op.actions), default=NO_OUTPUT) + 1
    return 1


def _named_inputs(op: Op) -> Iterator[int]:
    if isinstance(op, ExecOp):
        if sum(mount.dest == "/" for mount in op.mounts) != 1:
            raise InvalidParameter("an exec operation needs one mount at /")
        if not op.meta.args:
            raise InvalidParameter("failed to marshal LLB definition: arguments are required")
        yield from (mount.input for mount in op.mounts)
    elif isinstance(op, FileOp):
        if not op.actions:
            raise InvalidParameter("a file operation needs an action")
        for number, item in enumerate(op.actions):
            for named in (item.input, item.secondary):
                # the actions before count as inputs, too
                yield max(named - number, SCRATCH) if named >= 0 else named
    elif isinstance(op, DiffOp):
        yield from (op.lower, op.upper)
    elif isinstance(op, SourceOp) and not op.scheme:
        raise InvalidParameter(f"unknown source scheme: {op.identifier!r}")


# -- making graphs -------------------------------------------------------------------------------


def image(ref: str, platform: Platform | None = None, *, name: str = "", **attrs: str) -> Output:
    op = SourceOp(identifier=IMAGE + ref, attrs=attrs)
    return Vertex(op, platform=platform, meta=VertexMeta(name=name)).output()


def local(name: str, attrs: dict[str, str] | None = None, *, label: str = "") -> Output:
    op = SourceOp(identifier=LOCAL + name, attrs=attrs or {})
    return Vertex(op, meta=VertexMeta(name=label)).output()


def file_op(
    base: Output | None, actions: Iterable[tuple[Action, Output | None]], meta: VertexMeta,
    platform: Platform | None = None,
) -> Output:  # fmt: skip
    """Actions on ``base`` one after the other, each with the root that it copies from."""
    inputs: list[Output] = [base] if base is not None else []
    wanted = list(actions)
    places: list[int] = []
    for _, source in wanted:
        if source is None:
            places.append(SCRATCH)
            continue
        at = next((n for n, known in enumerate(inputs) if _same(known, source)), -1)
        if at < 0:
            at = len(inputs)
            inputs.append(source)
        places.append(at)
    found = []
    for number, ((action, _), place) in enumerate(zip(wanted, places, strict=True)):
        first = 0 if base is not None else SCRATCH
        found.append(
            FileAction(
                action=action,
                input=first if number == 0 else len(inputs) + number - 1,
                secondary=place,
                output=0 if number == len(wanted) - 1 else NO_OUTPUT,
            )
        )
    return Vertex(FileOp(actions=tuple(found)), tuple(inputs), platform, meta).output()


def merge(parts: Iterable[Output], meta: VertexMeta) -> Output:
    return Vertex(MergeOp(), tuple(parts), None, meta).output()


def _same(one: Output, other: Output) -> bool:
    return one.vertex is other.vertex and one.index == other.index
