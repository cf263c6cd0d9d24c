"""How each kind of vertex is identified and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from portside.builder import llb
from portside.builder.llb import Vertex
from portside.builder.solver.build_events import Report
from portside.builder.solver.build_jobs import HashContent, Placed
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.solver import Made, Operations
from portside.builder.solver.step_runner import StepRunner, StepSettings
from portside.builder.solver.tree import Tree, digest_of
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound, NotImplementedHere
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs

if TYPE_CHECKING:
    from portside.builder.solver.http_source import HttpSource
    from portside.store.store import Store

_MEMO = 4096


class ImageTrees(Protocol):
    """Where ``docker-image://`` leads."""

    def chain(self, image_id: str) -> str:
        """The topmost layer of a local image; empty for one without layers. NotFound."""
        ...


@dataclass(kw_only=True)
class BuildInputs:
    """What one build brings along."""

    local: dict[str, Tree] = field(default_factory=dict)
    """By the name of a ``local://`` source: the directory of a context."""
    settings: StepSettings = field(default_factory=StepSettings)


class OperationSet:
    """The operations of one build."""

    def __init__(
        self, store: Store, images: ImageTrees, runner: StepRunner, committer: LayerCommitter,
        inputs: BuildInputs, http: HttpSource, memo: dict[tuple[str, bytes], str],
    ) -> None:  # fmt: skip
        self._store, self._images, self._runner = store, images, runner
        self._committer, self._inputs, self._http = committer, inputs, http
        self._memo = memo

    def operations(self) -> Operations:
        return Operations(self.definition, self.content, self.run)

    # -- identity ------------------------------------------------------------------------

    async def definition(self, vertex: Vertex) -> str | None:
        op = vertex.op
        assert isinstance(op, llb.SourceOp)
        if op.scheme == llb.IMAGE:
            return digest_of("image", _image_id(op), str(vertex.platform or ""))
        if op.scheme == llb.LOCAL:
            tree = self._inputs.local.get(op.name)
            return tree.content if tree is not None and tree.content else None
        if op.scheme in (llb.HTTP, llb.HTTPS):
            checksum = op.attrs.get("http.checksum", "")
            return digest_of("http", op.identifier, checksum) if checksum else None
        return None

    async def content(self, vertex: Vertex, trees: Sequence[Tree]) -> str:
        op = vertex.op
        if isinstance(op, llb.ExecOp):
            return digest_of(*[await self._mounted(mount, trees) for mount in op.mounts])
        if isinstance(op, llb.FileOp):
            return await self._copied(op, trees)
        return digest_of(*(await self._all([(tree, ()) for tree in trees])))

    async def _mounted(self, mount: llb.Mount, trees: Sequence[Tree]) -> str:
        if mount.input < 0:
            return ""
        tree = trees[mount.input]
        if tree.directory or (mount.readonly and mount.selector):
            job = HashContent(source=self.readable(tree), path=mount.selector or "/")
            return await self._hashed(tree, job)
        return tree.content

    async def _copied(self, op: llb.FileOp, trees: Sequence[Tree]) -> str:
        """A base counts as a whole, a source with what is copied from it."""
        copies: dict[int, list[llb.CopyAction]] = {}
        bases = set()
        for item in op.actions:
            if 0 <= item.input < len(trees):
                bases.add(item.input)
            if 0 <= item.secondary < len(trees) and isinstance(item.action, llb.CopyAction):
                copies.setdefault(item.secondary, []).append(item.action)
        wanted = [(trees[number], tuple(copies[number])) for number in sorted(copies)]
        parts = [trees[number].content for number in sorted(bases)]
        return digest_of(*parts, *(await self._all(wanted)))

    async def _all(self, wanted: list[tuple[Tree, tuple[llb.CopyAction, ...]]]) -> list[str]:
        found = []
        for tree, copies in wanted:
            if not copies and not tree.directory:
                found.append(tree.content)
                continue
            job = HashContent(source=self.readable(tree), copies=copies)
            found.append(await self._hashed(tree, job))
        return found

    async def _hashed(self, tree: Tree, job: HashContent) -> str:
        """Layers never change: what was read of them once is remembered."""
        key = (tree.chain, msgspec.json.encode((job.copies, job.path)))
        if tree.chain and key in self._memo:
            return self._memo[key]
        found: str = await self._store.workers.run(job)
        if tree.chain:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[key] = found
        return found

    def readable(self, tree: Tree) -> Rootfs:
        """A tree to read from."""
        if tree.directory:
            return Rootfs("bind", upper=tree.directory)
        if tree.chain:
            return self._store.layers.rootfs(Digest(tree.chain))
        return Rootfs("bind", upper=str(self._store.layers.links_dir / "empty"))

    # -- work ----------------------------------------------------------------------------

    async def run(self, vertex: Vertex, trees: Sequence[Tree], report: Report) -> Made:
        op = vertex.op
        if isinstance(op, llb.SourceOp):
            return await self._source(vertex, op, report)
        if isinstance(op, llb.ExecOp):
            return await self._runner.run(vertex, op, trees, self._inputs.settings, report)
        if isinstance(op, llb.FileOp):
            return await self._file(op, trees)
        if isinstance(op, llb.MergeOp):
            return await self._merge(trees)
        return await self._diff(op, trees)

    async def _source(self, vertex: Vertex, op: llb.SourceOp, report: Report) -> Made:
        if op.scheme == llb.IMAGE:
            return Made((Tree.of_chain(self._images.chain(_image_id(op))),))
        if op.scheme == llb.LOCAL:
            tree = self._inputs.local.get(op.name)
            if tree is None:
                raise NotFound(f"the client has no build context named {op.name!r}")
            return Made((tree,))
        if op.scheme in (llb.HTTP, llb.HTTPS):
            return await self._http.fetch(vertex, op, self._committer, report)
        raise NotImplementedHere(f"sources of the kind {op.scheme} are not supported yet")

    async def _file(self, op: llb.FileOp, trees: Sequence[Tree]) -> Made:
        """A chain of actions, each on the result of the one before."""
        count = len(trees)
        actions = []
        for number, item in enumerate(op.actions):
            follows = item.input == count + number - 1 if number else item.input < count
            if not follows or item.secondary >= count:
                raise NotImplementedHere(
                    "file operations whose actions do not follow each other are not supported"
                )
            actions.append(Placed(item.action, item.secondary))
        first = op.actions[0].input
        below = trees[first] if first >= 0 else Tree()
        if below.directory:
            raise InvalidParameter("a file operation cannot change a client's directory")
        identifier = new_id()
        layers = self._store.layers
        chain = Digest(below.chain) if below.chain else None
        await layers.create_writable_copy(identifier, chain)
        try:
            sources = [self.readable(tree) for tree in trees]
            return await self._committer.file_op(identifier, below, actions, sources)
        finally:
            layers.remove_writable(identifier)
            self._store.trash.discard(layers.containers_dir / identifier)

    async def _merge(self, trees: Sequence[Tree]) -> Made:
        """The layers of all, one stack over the other."""
        chain = trees[0].chain
        for tree in trees[1:]:
            chain = await self._stacked(chain, tree.chain, "")
        return Made((Tree(chain, digest_of("merge", *(tree.content for tree in trees))),))

    async def _stacked(self, below: str, above: str, beyond: str) -> str:
        """``below`` with the layers of ``above`` on it, down to the chain ``beyond``."""
        if not above:
            return below
        wanted = []
        for layer in self._store.layers.stack(Digest(above)):
            if layer.chain == beyond:
                break
            wanted.append(layer)
        chain = Digest(below) if below else None
        for layer in reversed(wanted):
            chain = await self._store.layers.ensure(
                chain, layer.diff_id, Digest(layer.blob), "", owner=self._committer.owner
            )
        return str(chain or "")

    async def _diff(self, op: llb.DiffOp, trees: Sequence[Tree]) -> Made:
        lower = trees[op.lower].chain if op.lower >= 0 else ""
        upper = trees[op.upper].chain if op.upper >= 0 else ""
        chains = [str(layer.chain) for layer in self._store.layers.stack(Digest(upper))] if (
            upper) else []  # fmt: skip
        if lower and lower not in chains:
            raise NotImplementedHere(
                "the difference of trees that do not stand on each other is not supported"
            )
        chain = await self._stacked("", upper, lower)
        return Made((Tree(chain, digest_of("diff", *(tree.content for tree in trees))),))


def _image_id(op: llb.SourceOp) -> str:
    """``NAME@sha256:…`` as the frontend's resolver writes it."""
    _, at, digest = op.name.rpartition("@")
    if not at:
        raise InvalidParameter(f"{op.identifier}: the image is not resolved to a digest")
    return digest
