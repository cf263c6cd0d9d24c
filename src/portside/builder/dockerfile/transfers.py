"""WORKDIR, COPY and ADD: instructions that change files without running anything.

Each source of COPY and ADD becomes an action on the root and, where it is not the root itself, a
root to copy from.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portside.builder import llb
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile import lint
from portside.builder.dockerfile.frontend_values import (
    StageState,
)
from portside.builder.dockerfile.lines import Heredoc
from portside.model.digest import Digest
from portside.model.dockerignore import Ignore
from portside.model.errors import InvalidParameter
from portside.model.git_urls import is_git_url

if TYPE_CHECKING:
    from portside.builder.dockerfile.frontend import Conversion

_URL = re.compile(r"https?://")
CONTENT = "\0content\0"
"""Stands in a classic history line for ``file:…``, ``dir:…`` or ``multi:…``."""


class Transfers:
    """The actions of one COPY or ADD."""

    def __init__(
        self, conversion: Conversion, state: StageState, instruction: ins.Copy | ins.Add, dest: str,
        ignore: Ignore | None, count: int,
    ) -> None:  # fmt: skip
        self._conversion, self._state, self._instruction = conversion, state, instruction
        self._dest, self._ignore, self._count = dest, ignore, count
        expand = self._expand
        chown = expand(instruction.chown)
        self._owner = _owner(chown) if chown else None
        self._mode = expand(instruction.chmod)
        if self._mode and not re.fullmatch(r"0?[0-7]{1,4}|[ugoa]*[-+=][-+=rwxXstugoa,]*",
                                           self._mode):  # fmt: skip
            raise InvalidParameter(f"invalid chmod parameter: '{self._mode}': it should be octal "
                                   "(0755) or symbolic (u=rwX)")  # fmt: skip
        self._exclude = tuple(expand(word) for word in instruction.exclude)

    def _expand(self, text: str) -> str:
        return self._conversion.expanded(self._state, text, self._instruction)

    def one(
        self, word: str, source: llb.Output | None, *, is_add: bool
    ) -> tuple[llb.Action, llb.Output | None]:
        if is_add and isinstance(self._instruction, ins.Add):
            if is_git_url(word):
                return self._git(word, self._instruction)
            if _URL.match(word):
                return self._http(word, self._instruction)
            if self._instruction.checksum:
                raise InvalidParameter("checksum requires HTTP(S) or Git sources")
            if source is None:
                raise InvalidParameter("ADD: there is no build context")
        unpack = None if not isinstance(self._instruction, ins.Add) else self._instruction.unpack
        self._lint_ignored(word)
        clean, parents = self._path(word)
        classic = self._conversion.options.phrases.is_classic
        action = llb.CopyAction(
            src=clean, dest=self._dest, owner=self._chown(source), mode=self._mode,
            follow_symlink=True, dir_copy_contents=True,
            attempt_unpack=is_add and unpack is not False,
            create_dest_path=True, allow_wildcard=True,
            allow_empty_wildcard=not classic or self._count > 1,
            exclude=self._exclude, parents=parents,
        )  # fmt: skip
        return action, source

    def history_text(self, sources: Sequence[str], written: str) -> str:
        """The instruction with its values, as BuildKit's history has it: only the flags that
        change owner and mode, and no quotes."""
        chown = self._expand(self._instruction.chown)
        flags = [f"--chown={chown}"] if chown else []
        flags += [f"--chmod={self._mode}"] if self._mode else []
        heredocs = [f"<<{item.name}" for item in self._instruction.heredocs]
        return " ".join([self._instruction.name, *flags, *sources, *heredocs, written])

    def _chown(self, source: llb.Output | None) -> llb.ChownOpt | None:
        """Contexts have no owners: what comes from them is root's."""
        if self._owner is not None:
            return self._owner
        if source is not None and source is self._conversion.options.context:
            return llb.ChownOpt(user=llb.UserOpt(id=0), group=llb.UserOpt(id=0))
        return None

    def _path(self, word: str) -> tuple[str, str]:
        """The source's path in its root, and what ``--parents`` keeps from."""
        classic = self._conversion.options.phrases.is_classic
        if classic and posixpath.normpath(word).startswith(".."):
            raise InvalidParameter(
                f"{self._instruction.name} failed: forbidden path outside the build context: "
                f"{word} ()"
            )
        clean = posixpath.normpath(posixpath.join("/", word))
        clean = "/" + clean.lstrip("/")
        if not getattr(self._instruction, "parents", False):
            return clean, ""
        before, pivot, _ = posixpath.join("/", word).partition("/./")
        start = posixpath.normpath("/" + before) if pivot else "/"
        return clean, "/" + start.lstrip("/")

    def _lint_ignored(self, word: str) -> None:
        path = posixpath.normpath(word.lstrip("/"))
        plain = not re.search(r"[*?[]", path) and path != "."
        if self._ignore and plain and self._ignore.prunes(path):
            self._conversion.linter.report(
                lint.COPY_IGNORED_FILE,
                f'Attempting to {self._instruction.name} file "{word}" that is excluded by '
                ".dockerignore",
                self._instruction.span,
            )

    def _http(self, url: str, add: ins.Add) -> tuple[llb.Action, llb.Output | None]:
        attrs: dict[str, str] = {}
        if add.checksum:
            attrs["http.checksum"] = str(Digest(self._expand(add.checksum)))
        name = posixpath.basename(url.partition("?")[0].partition("#")[0])
        is_classic = self._conversion.options.phrases.is_classic
        if not name and self._dest.endswith("/") and is_classic:
            raise InvalidParameter(
                f"cannot determine filename from url: {url}: give a destination that does not "
                "end with a /"
            )
        attrs["http.filename"] = name = name or "__unnamed__"
        vertex = llb.Vertex(llb.SourceOp(identifier=url, attrs=attrs),
                            meta=self._meta())  # fmt: skip
        root = llb.UserOpt(id=0)
        action = llb.CopyAction(
            src=f"/{name}", dest=self._dest, mode=self._mode or "0600",
            owner=self._owner or llb.ChownOpt(user=root, group=root), create_dest_path=True,
            attempt_unpack=bool(add.unpack),
        )  # fmt: skip
        return action, vertex.output()

    def _git(self, url: str, add: ins.Add) -> tuple[llb.Action, llb.Output | None]:
        attrs = {"git.keepgitdir": "true"} if add.keep_git_dir else {}
        if add.checksum:
            attrs["git.checksum"] = self._expand(add.checksum)
        vertex = llb.Vertex(
            llb.SourceOp(identifier=llb.GIT + url.removeprefix(llb.GIT), attrs=attrs),
            meta=self._meta(),
        )
        action = llb.CopyAction(
            src="/", dest=self._dest, owner=self._owner, mode=self._mode,
            dir_copy_contents=True, create_dest_path=True, exclude=self._exclude,
        )  # fmt: skip
        return action, vertex.output()

    def _meta(self) -> llb.VertexMeta:
        """A source of the instruction is shown as the instruction."""
        return self._conversion.meta(self._state, self._instruction)

    def heredoc(self, item: Heredoc) -> tuple[llb.Action, llb.Output | None]:
        content = item.content
        if item.expand:
            content = self._conversion.expanded(
                self._state, content, self._instruction, raw_quotes=True
            )
        data = content.encode("utf-8", "surrogateescape")
        meta = llb.VertexMeta(name=f"preparing here-document {item.name}")
        make = llb.MakeFile(path=f"/{item.name}", data=data, mode=0o644, timestamp=0)
        made = llb.file_op(None, [(make, None)], meta)
        action = llb.CopyAction(
            src=f"/{item.name}", dest=self._dest, owner=self._owner, mode=self._mode,
            create_dest_path=True,
        )  # fmt: skip
        return action, made

    def named(self) -> str:
        """What the classic builder's history says of the sources: kind and digest, which the
        exporter fills in once they are known."""
        chown = f"--chown={self._expand(self._instruction.chown)} " if self._owner else ""
        return f"{chown}{CONTENT}"


def destination(workdir: str, path: str) -> str:
    """Absolute and clean; a slash at the end stays, since it says that it is a directory."""
    ends = path.endswith(("/", "/.")) or path in (".", "")
    found = posixpath.normpath(posixpath.join("/", workdir, path))
    found = "/" + found.lstrip("/")
    return found + "/" if ends and found != "/" else found


def _owner(text: str) -> llb.ChownOpt:
    """``USER:GROUP``, each a number or a name; what is empty beside the colon is root, and
    without a colon the group is the user's."""
    user, colon, group = text.partition(":")
    root = llb.UserOpt(id=0)
    return llb.ChownOpt(
        user=_identity(user) if user else root,
        group=(_identity(group) if group else root) if colon else None,
    )


def _identity(text: str) -> llb.UserOpt:
    """A number, or a name to be looked up in the root that is copied to (the first input)."""
    if text.isascii() and text.isdigit():
        if len(text) > 10 or int(text) >= 2**32 - 1:
            raise InvalidParameter(f"invalid user or group ID: {text}")
        return llb.UserOpt(id=int(text))
    return llb.UserOpt(name=text, input=0)


# -- the instructions ------------------------------------------------------------------------


def workdir(conversion: Conversion, state: StageState, instruction: ins.Workdir) -> None:
    path = conversion.expanded(state, instruction.path, instruction)
    is_absolute = path.startswith("/")
    if not is_absolute and not state.workdir_set:
        conversion.linter.report(
            lint.WORKDIR_RELATIVE_PATH,
            f'Relative workdir "{path}" can have unexpected results if the base image changes',
            instruction.span,
        )
    state.workdir_set = True
    directory = posixpath.normpath(posixpath.join(state.workdir, path))
    directory = "/" + directory.lstrip("/")
    if not is_absolute:
        path = directory  # an absolute one stays as it is written
    state.put(working_dir=path)
    if directory != "/":
        owner = None  # the classic builder's is root, whoever the image's user is
        if state.config.user and not conversion.options.phrases.is_classic:
            owner = _owner(state.config.user)
        action = llb.MakeDir(path=directory, make_parents=True, owner=owner)
        meta = conversion.meta(state, instruction)
        state.output = llb.file_op(state.output, [(action, None)], meta, state.platform)
    created_by = conversion.phrase(state, "WORKDIR", path)
    conversion.record(
        state, instruction.text, instruction.span, created_by, changed=directory != "/"
    )


async def copy(conversion: Conversion, state: StageState, instruction: ins.Copy) -> None:
    name = conversion.expanded(state, instruction.source_stage, instruction)
    source, is_client = await conversion.source(state, name, instruction)
    ignore = conversion.options.ignore if is_client and not name else None
    await _transfer(conversion, state, instruction, source, ignore, is_add=False)


async def add(conversion: Conversion, state: StageState, instruction: ins.Add) -> None:
    await _transfer(
        conversion,
        state,
        instruction,
        conversion.options.context,
        conversion.options.ignore,
        is_add=True,
    )


async def _transfer(
    conversion: Conversion,
    state: StageState,
    instruction: ins.Copy | ins.Add,
    source: llb.Output | None,
    ignore: Ignore | None,
    *,
    is_add: bool,
) -> None:
    dest = conversion.expanded(state, instruction.destination, instruction)
    sources = [conversion.expanded(state, word, instruction) for word in instruction.sources]
    if not dest:
        raise InvalidParameter(f"{instruction.name}: the destination is empty")
    dest = destination(state.workdir, dest)
    count = len(sources) + len(instruction.heredocs)
    if conversion.options.phrases.is_classic and count > 1 and not dest.endswith("/"):
        # BuildKit takes a directory that exists without the slash, too
        raise InvalidParameter(
            f"When using {instruction.name} with more than one source file, the destination "
            "must be a directory and end with a /"
        )
    maker = Transfers(conversion, state, instruction, dest, ignore, len(sources))
    actions = [maker.one(word, source, is_add=is_add) for word in sources]
    actions += [maker.heredoc(item) for item in instruction.heredocs]
    meta = conversion.meta(state, instruction)
    if instruction.link:
        part = llb.file_op(None, actions, meta, state.platform)
        below = [state.output] if state.output is not None else []
        label = llb.VertexMeta(name=f"merge {instruction.text}", group=meta.group)
        state.output = llb.merge([*below, part], label) if below else part
    else:
        state.output = llb.file_op(state.output, actions, meta, state.platform)
    written = conversion.expanded(state, instruction.destination, instruction)
    content = f"{maker.named()} in {written}"
    created_by = conversion.options.phrases.transfer(
        maker.history_text(sources, written), instruction.name, state.shell, content
    )
    conversion.record(state, instruction.text, instruction.span, created_by, changed=True)
