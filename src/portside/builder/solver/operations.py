"""How each kind of vertex is identified and executed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from portside.builder import llb
from portside.builder.layers.layer_blobs import LayerBlobs, difference
from portside.builder.llb import Vertex
from portside.builder.results import CacheRequest, ContentStore
from portside.builder.solver.build_events import Report
from portside.builder.solver.build_jobs import CompareParents, HashContent, SnapshotContext
from portside.builder.solver.file_digests import beside
from portside.builder.solver.git_source import GitSource, git_source
from portside.builder.solver.job_values import Placed
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.layout_source import LayoutSource
from portside.builder.solver.rebase import copied_to, leading_to
from portside.builder.solver.solver import Made, Operations
from portside.builder.solver.step_runner import StepRunner, StepSettings
from portside.builder.solver.tree import Tree, digest_of
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.ids import new_id
from portside.model.registryauth import AuthConfig
from portside.model.rootfs import Rootfs
from portside.store.layers import chain_of

if TYPE_CHECKING:
    from portside.builder.client_directories import ClientDirectories
    from portside.builder.solver.http_source import HttpSource
    from portside.store.store import Store

_MEMO = 4096


class ImageTrees(Protocol):
    """The resolver of ``docker-image://`` sources."""

    def chain(self, image_id: str) -> str:
        """The topmost layer of a local image; empty for one without layers. NotFound."""
        ...


@dataclass(kw_only=True)
class BuildInputs:
    """The inputs of one build."""

    local: dict[str, Tree] = field(default_factory=dict)
    """Directories of contexts, by the name of their ``local://`` source."""
    content: Callable[[str], ContentStore | None] = lambda _: None
    """A content store of the client by its name: for ``oci-layout://``."""
    fetch: Callable[[Vertex, Report], Awaitable[Tree]] | None = None
    """Brings the directory of a ``local://`` source that is not in ``local``."""
    cache_from: tuple[CacheRequest, ...] = ()
    """Caches of other engines."""
    auths: Mapping[str, AuthConfig] = field(default_factory=dict)
    """Credentials of the registries of ``cache_from``."""
    importing: Callable[[str], AbstractContextManager[object]] = nullcontext
    """A context manager entered while a remote cache is read."""
    settings: StepSettings = field(default_factory=StepSettings)


class OperationSet:
    """The operations of one build."""

    def __init__(
        self, store: Store, images: ImageTrees, runner: StepRunner, committer: LayerCommitter,
        inputs: BuildInputs, http: HttpSource, memo: dict[tuple[str, bytes], str],
        directories: ClientDirectories,
    ) -> None:  # fmt: skip
        self._store, self._images, self._runner = store, images, runner
        self._committer, self._inputs, self._http = committer, inputs, http
        self._memo, self._directories = memo, directories
        self.digests: dict[str, str] = {}
        """Commits and content digests of the sources, by the vertex's digest."""
        self._git = GitSource(store, inputs.settings.secrets)
        self._layouts = LayoutSource(store, inputs.content)
        self._snapshots: dict[str, asyncio.Task[str]] = {}

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
        if op.scheme == llb.GIT:
            url, keep = git_source(op)
            commit = self.digests[vertex.digest] = await self._git.commit_of(url)
            return digest_of("git", commit, url.subdir, str(keep), str(url.submodules))
        if op.scheme == llb.OCI_LAYOUT and "@" in op.name:
            return digest_of("layout", op.name.rpartition("@")[2], str(vertex.platform or ""))
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
            return await self._hashed(tree, path=mount.selector or "/")
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
            found.append(await self._hashed(tree, copies))
        return found

    async def _hashed(
        self, tree: Tree, copies: tuple[llb.CopyAction, ...] = (), path: str = "/"
    ) -> str:
        """Layers never change: what was read of them once is remembered."""
        key = (tree.chain, msgspec.json.encode((copies, path)))
        if tree.chain and key in self._memo:
            return self._memo[key]
        job = HashContent(
            source=self.readable(tree), copies=copies, path=path, ignore=tree.ignore,
            digests=self._digests(tree), private=not tree.is_open,
        )  # fmt: skip
        found: str = await self._store.workers.run(job)
        if tree.chain:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[key] = found
        return found

    def _digests(self, tree: Tree) -> str:
        """The file that keeps the digests of a directory's files."""
        if tree.is_open:
            return self._directories.digests_of_open(tree.directory)
        return beside(tree.directory) if tree.directory else ""

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
            trees = [await self._mountable(tree) for tree in trees]
            return await self._runner.run(vertex, op, trees, self._inputs.settings, report)
        if isinstance(op, llb.FileOp):
            return await self._file(op, trees)
        if isinstance(op, llb.MergeOp):
            return await self._merge(vertex, trees)
        return await self._diff(op, trees)

    async def _source(self, vertex: Vertex, op: llb.SourceOp, report: Report) -> Made:
        if op.scheme == llb.IMAGE:
            return Made((Tree.of_chain(self._images.chain(_image_id(op))),))
        if op.scheme == llb.LOCAL:
            tree = self._inputs.local.get(op.name)
            if tree is None and self._inputs.fetch is not None:
                return Made((await self._inputs.fetch(vertex, report),))
            if tree is None:
                raise NotFound(f"the client has no build context named {op.name!r}")
            return Made((tree,))
        if op.scheme in (llb.HTTP, llb.HTTPS):
            made = await self._http.fetch(vertex, op, self._committer, report)
            self.digests[vertex.digest] = made.sources
            return made._replace(sources="")
        if op.scheme == llb.GIT:
            made = await self._git.fetch(op, self._committer)
            # the commit identifies the tree: a checkout's times and index differ each time
            tree = Tree(made.outputs[0].chain, await self.definition(vertex) or "")
            return made._replace(outputs=(tree,))
        owner = self._committer.owner
        return Made((await self._layouts.fetch(op, vertex.platform, owner),))

    async def _mountable(self, tree: Tree) -> Tree:
        """A client's directory as steps may mount it: as it is now, without ignored files, in the
        engine's own mount namespace."""
        if not tree.is_open:
            return tree
        if tree.directory not in self._snapshots:
            self._snapshots[tree.directory] = asyncio.create_task(self._snapshot(tree))
        directory = await asyncio.shield(self._snapshots[tree.directory])
        return Tree(content=tree.content, directory=directory)

    async def _snapshot(self, tree: Tree) -> str:
        target = str(self._store.root / "contexts" / new_id())
        job = SnapshotContext(source=self.readable(tree), ignore=tree.ignore, target=target)
        try:
            await self._store.workers.run(job)
        except BaseException:
            self._store.trash.discard(Path(target))
            raise
        return target

    async def close(self) -> None:
        """Let go of what was copied for steps."""
        for task in self._snapshots.values():
            task.cancel()
        for found in await asyncio.gather(*self._snapshots.values(), return_exceptions=True):
            if isinstance(found, str):
                self._store.trash.discard(Path(found))

    async def _file(self, op: llb.FileOp, trees: Sequence[Tree]) -> Made:
        """A graph of actions: each run of them that nothing else looks into is one layer."""
        known: dict[int, Tree] = dict(enumerate(trees))
        outputs: list[Tree] = [Tree()] * llb.output_count(op)
        blobs: list[str] = []
        size, sources = 0, ""
        for run in action_runs(op, len(trees)):
            items = [op.actions[number] for number in run]
            below = known[items[0].input] if items[0].input >= 0 else Tree()
            made = await self._actions(await self._layered(below), items, known)
            known[len(trees) + run[-1]] = made.outputs[0]
            if items[-1].output >= 0:
                outputs[items[-1].output] = made.outputs[0]
            blobs += made.blobs
            size, sources = size + made.size, made.sources
        return Made(tuple(outputs), tuple(blobs), size, sources)

    async def _actions(
        self, below: Tree, items: Sequence[llb.FileAction], known: dict[int, Tree],
        keep: Sequence[str] = (),
    ) -> Made:  # fmt: skip
        """Actions one after the other on one root."""
        needed = sorted({item.secondary for item in items if item.secondary >= 0})
        sources = [self.readable(known[number]) for number in needed]
        actions = [
            Placed(item.action, needed.index(item.secondary) if item.secondary >= 0 else -1)
            for item in items
        ]
        identifier = new_id()
        writables = self._store.writables
        copied = self._directories.copied
        key = digest_of("copied", below.chain, msgspec.json.encode(actions).decode(), *keep)
        earlier = copied.find(key, self._store.layers.layers_dir)
        files = copied.new_file()
        chain = Digest(below.chain) if below.chain else None
        await writables.create_copy(identifier, chain, for_build=True)
        try:
            ignores = [known[number].ignore for number in needed]
            digests = [self._digests(known[number]) for number in needed]
            private = [_is_private(known[number]) for number in needed]
            made = await self._committer.file_op(
                identifier, below, actions, sources, ignores, digests, private, keep, earlier,
                str(files),
            )  # fmt: skip
            copied.keep(key, made.outputs[0].chain, files)
            return made
        except BaseException:
            files.unlink(missing_ok=True)
            raise
        finally:
            writables.remove(identifier)
            self._store.trash.discard(writables.containers_dir / identifier)

    async def _layered(self, tree: Tree) -> Tree:
        """A tree that can be changed: a client's directory as a layer."""
        if not tree.directory:
            return tree
        action = llb.CopyAction(src="/", dest="/", dir_copy_contents=True)
        item = llb.FileAction(action=action, secondary=0, output=0)
        return (await self._actions(Tree(), [item], {0: tree})).outputs[0]

    async def _merge(self, vertex: Vertex, trees: Sequence[Tree]) -> Made:
        """The layers of all, one stack over the other."""
        layered = [await self._layered(tree) for tree in trees]
        content = digest_of("merge", *(tree.content for tree in layered))
        chain = layered[0].chain
        for item, tree in list(zip(vertex.inputs, layered, strict=True))[1:]:
            paths = copied_to(item.vertex.op)
            if paths and await self._differs(chain, tree, paths):
                chain = await self._copied_onto(chain, tree, paths)
            else:
                chain = await self._stacked(chain, tree.chain, "")
        return Made((Tree(chain, content),))

    async def _differs(self, below: str, above: Tree, paths: tuple[str, ...]) -> bool:
        """Whether the layer would change directories that it only passes through."""
        if not below or not above.chain:
            return False
        base = self.readable(Tree.of_chain(below))
        job = CompareParents(base=base, above=self.readable(above), paths=paths)
        found: bool = await self._store.workers.run(job)
        return found

    async def _copied_onto(self, below: str, above: Tree, paths: tuple[str, ...]) -> str:
        """Put files that were copied onto an empty root onto this root."""
        action = llb.CopyAction(src="/", dest="/", dir_copy_contents=True)
        item = llb.FileAction(action=action, secondary=0, output=0)
        keep = [place for path in paths for place in leading_to(path)]
        made = await self._actions(Tree.of_chain(below), [item], {0: above}, keep)
        return made.outputs[0].chain

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
        blobs = LayerBlobs(self._store, self._committer.owner)
        for layer in reversed(wanted):
            if not self._store.layers.claim(chain_of(chain, layer.diff_id), self._committer.owner):
                blob = await blobs.native(layer)
                await self._store.layers.ensure(
                    chain, layer.diff_id, Digest(blob.digest), blob.media_type,
                    owner=self._committer.owner,
                )  # fmt: skip
            chain = chain_of(chain, layer.diff_id)
        return str(chain or "")

    async def _diff(self, op: llb.DiffOp, trees: Sequence[Tree]) -> Made:
        """The layers above the lower one; of unrelated trees, what differs, as one layer."""
        lower = await self._layered(trees[op.lower]) if op.lower >= 0 else Tree()
        upper = await self._layered(trees[op.upper]) if op.upper >= 0 else Tree()
        chains = [str(layer.chain) for layer in self._store.layers.stack(Digest(upper.chain))] if (
            upper.chain) else []  # fmt: skip
        if not lower.chain or lower.chain in chains:
            chain = await self._stacked("", upper.chain, lower.chain)
        else:
            layer = await difference(
                self._store, self._committer.owner, Digest(lower.chain),
                Digest(upper.chain) if upper.chain else None, None,
            )  # fmt: skip
            chain = layer.chain
        return Made((Tree(chain, digest_of("diff", *(tree.content for tree in trees))),))


def action_runs(op: llb.FileOp, count: int) -> list[list[int]]:
    """The actions of an operation with ``count`` inputs in runs, each on the result of the one
    before: a run ends where its result is an output, copied from, or the base of several."""
    uses: dict[int, int] = {}
    kept = {number for number, item in enumerate(op.actions) if item.output >= 0}
    for item in op.actions:
        uses[item.input - count] = uses.get(item.input - count, 0) + 1
        kept.add(item.secondary - count)
    runs: list[list[int]] = []
    for number, item in enumerate(op.actions):
        before = item.input - count
        follows = bool(runs) and runs[-1][-1] == before
        if follows and before not in kept and uses[before] == 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _is_private(tree: Tree) -> bool:
    """Whether a tree is the engine's own copy of a client's directory."""
    return bool(tree.directory) and not tree.is_open


def _image_id(op: llb.SourceOp) -> str:
    """``NAME@sha256:…`` as the frontend's resolver writes it."""
    _, at, digest = op.name.rpartition("@")
    if not at:
        raise InvalidParameter(f"{op.identifier}: the image is not resolved to a digest")
    return digest
