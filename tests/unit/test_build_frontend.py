"""From a Dockerfile to LLB: scopes, stages, mounts, history; and the graph's own rules."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.builder import llb
from portside.builder.dockerfile.convert import convert
from portside.builder.dockerfile.diagnostics import DockerfileError, findings_of
from portside.builder.dockerfile.frontend_values import (
    FrontendOptions,
    NamedContext,
    Plan,
    ResolvedImage,
)
from portside.builder.dockerfile.history_text import ClassicPhrases
from portside.builder.dockerfile.lint import Warned
from portside.builder.dockerfile.syntax import PARSERS, parse
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import ImageConfig, RootFS, RunConfig
from portside.model.platform import Platform

LAYER = "sha256:" + "1" * 64


class Images:
    """Every image but ``missing``; ``trigger`` has ONBUILD instructions."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, ref: str, platform: Platform) -> ResolvedImage:
        self.asked.append(ref)
        if ref == "missing":
            raise NotFound("No such image: missing")
        run = RunConfig(
            env=("PATH=/bin", "BASE=1"),
            cmd=("sh",),
            on_build=("COPY . /app", "RUN make") if ref == "trigger" else None,
        )
        config = ImageConfig(architecture="amd64", os="linux", config=run,
                             rootfs=RootFS(diff_ids=(LAYER,)))  # fmt: skip
        return ResolvedImage(f"{ref}@{LAYER}", config, LAYER)


def plan(text: str, images: Images | None = None, **options: Any) -> Plan:
    options.setdefault("context", llb.local("context"))
    return asyncio.run(convert(parse(text), FrontendOptions(**options), images or Images()))


def ops(found: Plan, kind: type) -> list[Any]:
    assert found.output is not None
    return [vertex.op for vertex in llb.walk([found.output]) if isinstance(vertex.op, kind)]


def env_of(found: Plan) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in found.config.env or ())


def test_scope_of_arguments() -> None:
    text = """ARG V=global
FROM base AS a
ARG V
ARG W=$V-w
ENV X=$V$W
RUN one
FROM base
ENV Y=${V:-none}
RUN two
"""
    (one,) = ops(plan(text, target="a"), llb.ExecOp)
    assert one.meta.env == (
        "V=global", "W=global-w", "PATH=/bin", "BASE=1", "X=globalglobal-w",
    )  # fmt: skip
    assert env_of(plan(text))["Y"] == "none"
    (one,) = ops(plan(text, target="a", build_args={"V": "given"}), llb.ExecOp)
    assert one.meta.env[:2] == ("V=given", "W=given-w")
    assert plan(text, build_args={"ZZ": "1", "V": "2", "http_proxy": "x"}).unused_args == ["ZZ"]


def test_variables_of_one_instruction_do_not_see_each_other() -> None:
    found = plan("FROM base\nENV a=hello\nENV a=bye d=$a\nENV g=$a")
    assert {**env_of(found), "PATH": ""} | {"PATH": ""} == {
        "PATH": "", "BASE": "1", "a": "bye", "d": "hello", "g": "bye",
    }  # fmt: skip


def test_a_variable_wins_over_an_argument() -> None:
    found = plan("FROM base\nARG A=arg\nENV A=env\nRUN x")
    (run,) = ops(found, llb.ExecOp)
    assert "A=env" in run.meta.env and "A=arg" not in run.meta.env


def test_platform_arguments() -> None:
    arm = Platform.parse("linux/arm64")
    found = plan("FROM base\nARG TARGETARCH\nARG TARGETPLATFORM\nENV T=$TARGETARCH,$TARGETPLATFORM",
                 platform=arm)  # fmt: skip
    assert env_of(found)["T"] == "arm64,linux/arm64"


def test_only_needed_stages() -> None:
    images = Images()
    text = "FROM unused AS a\nRUN x\nFROM used AS b\nRUN y\nFROM base\nCOPY --from=b /y /y"
    found = plan(text, images)
    assert images.asked == ["base", "used"]
    assert [op.meta.args[-1] for op in ops(found, llb.ExecOp)] == ["y"]
    assert len(found.steps) == 4


def test_stages_by_number_name_and_target() -> None:
    text = "FROM base AS One\nRUN a\nFROM one\nRUN b\nFROM base\nCOPY --from=0 /a /a"
    found = plan(text)
    assert [op.meta.args[-1] for op in ops(found, llb.ExecOp)] == ["a"]
    assert [op.meta.args[-1] for op in ops(plan(text, target="ONE"), llb.ExecOp)] == ["a"]
    with pytest.raises(DockerfileError, match='target stage "1" could not be found'):
        plan(text, target="1")
    with pytest.raises(DockerfileError, match=r'"oen" could not be found \(did you mean one\?\)'):
        plan(text, target="oen")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM base AS a\nCOPY --from=b /x /x\nFROM base AS b\nCOPY --from=a /x /x", "circular"),
        ("FROM base AS a\nCOPY --from=A /x /x", "^circular dependency detected on stage: a$"),
        ("FROM base\nRUN --mount=from=0,target=/m x", "detected on stage: stage-0$"),
        ("FROM base\nCOPY --from=7 /x /x", "there are 1 stages"),
        ("FROM $NO", "should not be blank"),
        ("FROM base\nRUN --mount=type=bnid x", 'unsupported mount type "bnid" .did you mean bind'),
        ("FROM base\nRUN --mount=type=cache,targt=/x x", "unexpected key 'targt'.*target"),
        ("FROM base\nRUN --mount=type=cache x", "invalid mount target"),
        ("FROM base\nSTOPSIGNAL NOPE", "invalid signal"),
        ("FROM base\nEXPOSE x", "invalid containerPort"),
        ("FROM base\nCOPY --chmod=9 a b", "invalid chmod parameter"),
        ("FROM base\nADD --checksum=sha256:0 a b", "checksum requires HTTP"),
        ("FROM base\nENV A=${B:?needed}", "B: needed"),
        ("FROM base\nHEALTHCHECK --interval=x CMD a", "invalid duration"),
        ("FROM base\nHEALTHCHECK --interval=-1s CMD a", "cannot be less than 1ms"),
        ("FROM base\nHEALTHCHECK --timeout=1us CMD a", "cannot be less than 1ms"),
        ("FROM base\nHEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative"),
        ("FROM base\nADD --checksum=md5:0 http://a/b /c", "unsupported digest algorithm"),
        ("FROM base\nADD --checksum=sha256:0 http://a/b /c", "invalid checksum digest length"),
    ],
)
def test_errors_have_places(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        plan(text)
    assert caught.value.source and caught.value.snippet()


def test_a_misspelt_stage_gets_a_suggestion() -> None:
    with pytest.raises(NotFound, match=r"did you mean missin\?"):
        plan("FROM base AS missin\nFROM base\nCOPY --from=missing /x /x")


def test_triggers_run_in_the_child() -> None:
    found = plan("FROM trigger\nRUN after")
    assert [op.meta.args[-1] for op in ops(found, llb.ExecOp)] == ["make", "after"]
    assert not found.config.on_build
    assert [step.triggered for step in found.steps] == [False, True, True, False]


def test_an_entrypoint_takes_the_inherited_command_away() -> None:
    assert plan('FROM base\nENTRYPOINT ["x"]').config.cmd is None
    assert plan('FROM base\nCMD ["y"]\nENTRYPOINT ["x"]').config.cmd == ("y",)


def test_commands_without_words() -> None:
    for name, field in (("CMD", "cmd"), ("ENTRYPOINT", "entrypoint")):
        found = getattr(plan(f"FROM base\n{name}").config, field)
        assert found == ("/bin/sh", "-c", "")
        assert not getattr(plan(f"FROM base\n{name} []").config, field)
    classic = {"phrases": ClassicPhrases()}
    assert plan("FROM base\nCMD", **classic).config.cmd == ("/bin/sh", "-c")
    assert not plan("FROM base\nENTRYPOINT", **classic).config.entrypoint


def test_the_directory_of_workdir_is_the_users() -> None:
    def owner(text: str, **options: Any) -> Any:
        [made] = ops(plan(f"FROM base\n{text}WORKDIR /a", **options), llb.FileOp)
        return made.actions[0].action.owner

    one, bob, root = llb.UserOpt(id=1234), llb.UserOpt(name="bob", input=0), llb.UserOpt(id=0)
    assert owner("") is None
    assert owner("USER 1234\n") == llb.ChownOpt(user=one)
    assert owner("USER 1234:bob\n") == llb.ChownOpt(user=one, group=bob)
    assert owner("USER :1234\n") == llb.ChownOpt(user=root, group=one)
    assert owner("USER bob:\n") == llb.ChownOpt(user=bob, group=root)
    assert owner("USER 1234\n", phrases=ClassicPhrases()) is None


def test_copies() -> None:
    found = plan("FROM base\nWORKDIR /w\nCOPY a b/ x/\nCOPY --link --chown=1:2 --chmod=755 c /d")
    copies = [
        op for op in ops(found, llb.FileOp) if isinstance(op.actions[0].action, llb.CopyAction)
    ]
    linked, first = sorted(copies, key=lambda op: len(op.actions))
    assert [item.action.src for item in first.actions] == ["/a", "/b"]
    assert {item.action.dest for item in first.actions} == {"/w/x/"}
    assert first.actions[1].input == 2 and first.actions[1].output == 0
    action = linked.actions[0].action
    assert action.owner == llb.ChownOpt(user=llb.UserOpt(id=1), group=llb.UserOpt(id=2))
    assert action.mode == "755" and linked.actions[0].input == llb.SCRATCH
    assert ops(found, llb.MergeOp)


def test_named_contexts() -> None:
    other = llb.local("other")
    contexts = {"base": NamedContext(image="replaced"), "data": NamedContext(output=other)}
    images = Images()
    found = plan("FROM base\nCOPY --from=data /x /x", images, contexts=contexts)
    assert images.asked == ["replaced"]
    assert {op.identifier for op in ops(found, llb.SourceOp)} == {
        f"docker-image://replaced@{LAYER}", "local://other",
    }  # fmt: skip


def test_secrets_are_no_part_of_history_or_identity() -> None:
    text = "FROM base\nRUN --mount=type=secret,id=s,env=TOKEN use"
    found = plan(text)
    (run,) = ops(found, llb.ExecOp)
    assert run.secret_env == (llb.SecretEnv(id="s", name="TOKEN", optional=True),)
    assert not any("TOKEN" in step.created_by for step in found.history)
    one = plan("FROM base\nRUN x", build_args={"http_proxy": "http://user:pw@p"})
    other = plan("FROM base\nRUN x")
    assert one.output and other.output
    assert one.output.vertex.digest == other.output.vertex.digest


def test_history_in_both_wordings() -> None:
    text = 'FROM base\nARG A=1\nRUN x\nCMD ["a"]\nEXPOSE 80\nHEALTHCHECK NONE'
    assert [step.created_by for step in plan(text).history] == [
        "ARG A=1", "RUN |1 A=1 /bin/sh -c x # buildkit", 'CMD ["a"]', "EXPOSE [80/tcp]",
        'HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" \'\\x00\'}',
    ]  # fmt: skip
    classic = plan(text, phrases=ClassicPhrases())
    assert [step.created_by for step in classic.history] == [
        "/bin/sh -c #(nop)  ARG A=1", "|1 A=1 /bin/sh -c x", '/bin/sh -c #(nop)  CMD ["a"]',
        "/bin/sh -c #(nop)  EXPOSE 80",
        "/bin/sh -c #(nop)  HEALTHCHECK &{[NONE] 0s 0s 0s 0s 0}",
    ]  # fmt: skip


def test_arguments_in_history() -> None:
    """As dockerd 28's BuildKit tells them: in the order of declaration, each once, with what ENV
    made of them; ONBUILD is not told."""
    text = ("ARG Z=zz\nFROM base\nARG B=1\nARG A=2 C Q\nARG B=3\nARG Z\nENV C=env\nRUN x\n"
            "ARG HTTP_PROXY=none\nENV A=over\nRUN y\nONBUILD RUN z")  # fmt: skip
    found = plan(text, build_args={"C": "given", "HTTP_PROXY": "p"})
    told = [step.created_by for step in found.history]
    assert [line for line in told if "RUN" in line] == [
        "RUN |5 B=3 A=2 C=env Q= Z=zz /bin/sh -c x # buildkit",
        "RUN |6 B=3 A=over C=env Q= Z=zz HTTP_PROXY=p /bin/sh -c y # buildkit",
    ]
    classic = plan("FROM base\nARG B=1\nARG A=2\nRUN x\nONBUILD RUN z", phrases=ClassicPhrases())
    assert [step.created_by for step in classic.history][-2:] == [
        "|2 A=2 B=1 /bin/sh -c x", "/bin/sh -c #(nop)  ONBUILD RUN z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("FROM base\nENV A=$TYPO", "UndefinedVar"),
        ("FROM base\nWORKDIR rel", "WorkdirRelativePath"),
        ("ARG T\nFROM base:$T", "InvalidDefaultArgInFrom"),
        ("FROM $BAES:x", "UndefinedArgInFrom"),
        ("FROM $BAES", "UndefinedArgInFrom"),
        ("FROM ${BAES:-base}", "UndefinedArgInFrom"),
        ("FROM --platform=$BAES base", "UndefinedArgInFrom"),
        ("ARG BAES\nFROM ${BAES:-base}", ""),
        ("FROM base\nENV A=${TYPO:-default}", "UndefinedVar"),
        ("FROM base\nENV A=${TYPO+more}", "UndefinedVar"),
        ("FROM base\nENV A=${BASE:-$TYPO}", "UndefinedVar"),
        ("FROM base\nENV A=$_typo", "UndefinedVar"),
        ("FROM base\nARG B\nENV A=${B:-$BASE}", ""),
    ],
)
def test_checks_that_need_scopes(text: str, rule: str) -> None:
    options = {"build_args": {"T": "1"}} if "ARG T" in text else {}
    try:
        found: Sequence[Warned] = plan(text, **options).warnings
    except DockerfileError as err:
        found = findings_of(err)
    assert (rule in [warned.rule.name for warned in found]) if rule else not found


# -- the graph -----------------------------------------------------------------------------------


def test_digests_cover_operation_inputs_and_platform_only() -> None:
    base, other = llb.image("a"), llb.image("b")
    op = llb.FileOp(actions=(llb.FileAction(action=llb.MakeDir(path="/x"), input=0, output=0),))
    one = llb.Vertex(op, (base,), meta=llb.VertexMeta(name="one"))
    assert one.digest == llb.Vertex(op, (llb.image("a"),)).digest
    assert one.digest != llb.Vertex(op, (other,)).digest
    assert one.digest != llb.Vertex(op, (base,), Platform.parse("linux/arm64")).digest


def test_malformed_graphs_are_refused() -> None:
    meta = llb.Meta(args=("x",))
    bad = [
        llb.Vertex(llb.SourceOp(identifier="nope://x")),
        llb.Vertex(llb.ExecOp(meta=meta, mounts=())),
        llb.Vertex(llb.ExecOp(meta=meta, mounts=(llb.Mount(dest="/", input=3, output=0),))),
        llb.Vertex(llb.ExecOp(meta=llb.Meta(args=()), mounts=(llb.Mount(dest="/", output=0),))),
        llb.Vertex(llb.FileOp(actions=())),
        llb.Vertex(llb.MergeOp(), (llb.Vertex(llb.MergeOp()).output(5),)),
    ]
    for vertex in bad:
        with pytest.raises(InvalidParameter):
            llb.check([vertex.output()])


def test_a_long_chain_needs_no_recursion() -> None:
    output = llb.image("a")
    for _ in range(20_000):
        output = llb.Vertex(llb.MergeOp(), (output,)).output()
    llb.check([output])
    for _ in range(llb.MAX_VERTICES - 20_000):
        output = llb.Vertex(llb.MergeOp(), (output,)).output()
    with pytest.raises(InvalidParameter, match="more than"):
        llb.check([output])


words = st.sampled_from(
    ["FROM base", "FROM base AS a", "FROM a", "FROM scratch", "ARG A=1", "ARG B", "ENV C=$A",
     "RUN x", "RUN <<E\nx\nE", "COPY a b", "COPY --from=a a b", "COPY --from=0 . /x/",
     "ADD http://h/x /y", "WORKDIR w", "WORKDIR /", "USER $A", "CMD x", 'ENTRYPOINT ["x"]',
     "EXPOSE $B", "VOLUME /v", "LABEL a=$C", "ONBUILD RUN x", "SHELL [\"a\"]", "HEALTHCHECK NONE",
     "RUN --mount=type=cache,target=$A x", "RUN --mount=from=a,target=/m x", "STOPSIGNAL 9"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=15))
def test_any_file_gives_a_sound_graph_or_an_error_with_its_place(text: list[str]) -> None:
    try:
        found = plan("FROM base\n" + "\n".join(text))
    except DockerfileError as err:
        assert err.snippet() and str(err)
    else:
        if found.output is not None:
            llb.check([found.output])
        assert len(found.steps) >= len(found.history)
    assert PARSERS


def test_history_reports_copies_with_their_values() -> None:
    """As dockerd 28 writes it: flags that tell what files are like, values, no quotes."""
    text = """FROM base AS a
FROM scratch
ARG V=one
COPY --link --chmod=0700 --chown=1:$V d/f "d/g" /x/
COPY --from=a --chown=3 /b /y
ADD ["t.tar", "/z z/"]
COPY --chown=1 <<EOT <<-"two" /hd/
a
EOT
b
two
"""
    found = plan(text)
    assert [step.created_by for step in found.history if "# buildkit" in step.created_by] == [
        "COPY --chown=1:one --chmod=0700 d/f d/g /x/ # buildkit",
        "COPY --chown=3 /b /y # buildkit",
        "ADD t.tar /z z/ # buildkit",
        "COPY --chown=1 <<EOT <<two /hd/ # buildkit",
    ]
    assert found.config.working_dir == "/"


def test_a_here_document_with_an_interpreter_is_run_by_the_shell() -> None:
    """As BuildKit does, which shows in the image's history."""
    found = plan("FROM base\nRUN <<A\n#!/bin/cat\nx\nA")
    (run,) = ops(found, llb.ExecOp)
    assert run.meta.args == ("/bin/sh", "-c", "/dev/pipes/A")
    assert found.history[-1].created_by == "RUN /bin/sh -c /dev/pipes/A # buildkit"


# -- answers of BuildKit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SHELL", "dockerfile parse error on line 2: SHELL requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("LABEL a", "LABEL must have two arguments"),
        ("ONBUILD ENV a", "ENV must have two arguments"),
        ("HEALTHCHECK CMD []",
         "dockerfile parse error on line 2: Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=1 CMD a",
         'dockerfile parse error on line 2: time: missing unit in duration "1"'),
        ("HEALTHCHECK --interval=1us CMD a",
         'dockerfile parse error on line 2: Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --retries=-1 CMD a",
         "dockerfile parse error on line 2: --retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD a",
         'dockerfile parse error on line 2: strconv.ParseInt: parsing "x": invalid syntax'),
        ("HEALTHCHECK --interval CMD a",
         "dockerfile parse error on line 2: missing a value on flag: --interval"),
        ("HEALTHCHECK --interval=1s --interval=2s CMD a",
         "dockerfile parse error on line 2: duplicate flag specified: --interval"),
        ("EXPOSE 80/foo", 'invalid port: "80/foo": invalid proto: foo'),
        ("EXPOSE 80/tcp/udp", 'invalid port: "80/tcp/udp": invalid proto: tcp/udp'),
        ("EXPOSE /tcp", 'invalid port: "/tcp": no port specified'),
        ("EXPOSE 82-80", "invalid containerPort: 82-80"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("STOPSIGNAL SIGRTMIN+40", "invalid signal: SIGRTMIN+40"),
        ("ENV a=${BASE", 'failed to process "${BASE": unsupported modifier (\ufffd) '
         "in substitution"),
        ("ENV a=${BASE:x}",
         'failed to process "${BASE:x}": unsupported modifier (:x) in substitution'),
        ('ENV a="', r'failed to process "\"": unexpected end of statement while looking for '
         "matching double-quote"),
        ("ARG 'a=b c'", 'failed to process "b c\'": unexpected end of statement while looking for '
         "matching single-quote"),
        ("ENV a=${N:?}", 'failed to process "${N:?}": N: is not allowed to be unset'),
        ("COPY <<E /f\n${BASE\nE", r'failed to process "${BASE\n": unsupported modifier (' "\n"
         ") in substitution"),
        ("COPY", "dockerfile parse error on line 2: COPY requires at least two arguments, but only "
         "one was provided. Destination could not be determined"),
        ("COPY --from=5 a b", "invalid stage index 5: there are 1 stages, numbered from 0"),
        ("COPY --from=-1 a b", "invalid stage index -1: there are 1 stages, numbered from 0"),
        ("COPY --from=BB a b", 'failed to parse stage name "BB": invalid reference format: '
         "repository name (library/BB) must be lowercase"),
        ("RUN <<E\nx", "unterminated heredoc: no line 'E' follows"),
        ("EXPOSE 1.2.3.4:80", "invalid hostPort: 1.2.3.4"),
        ("RUN --network=foo x", 'dockerfile parse error on line 2: invalid network mode "foo"'),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ONBUILD CMD [1]",
         "when using JSON array syntax, arrays must be comprised of strings only"),
        ("COPY --link=maybe a b",
         "dockerfile parse error on line 2: expecting boolean value for flag --link, not: maybe"),
        ("RUN --mount= x", "failed to parse csv mounts: EOF"),
        ("RUN --mount=type=bind x", 'invalid mount target "/": give target=PATH'),
        ("RUN --mount=type=cache x", 'invalid mount target "/": give target=PATH'),
        ("RUN --mount=type=tmpfs,target=/t,mode=700 x", 'mode not allowed for "tmpfs" type mounts'),
        ("RUN --mount=type=bind,target=/t,size=10 x",
         "unexpected key 'size' for mount type 'bind'"),
        ("RUN --mount=type=bind,target=/t,foo=1 x",
         "unexpected key 'foo' in 'foo=1' (did you mean from?)"),
        ("RUN --mount=type=secret x",
         "invalid secret mount. one of source, target required: give id=NAME"),
        ("ru x", "dockerfile parse error on line 2: unknown instruction: ru (did you mean run?)"),
        ("C /a", "dockerfile parse error on line 2: unknown instruction: C (did you mean CMD?)"),
        ("X", "dockerfile parse error on line 2: unknown instruction: X"),
        ("EN a=b", "dockerfile parse error on line 2: unknown instruction: EN (did you mean ENV?)"),
    ],
)  # fmt: skip
def test_errors_of_instructions(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(f"FROM base\n{text}\n")
    assert str(caught.value) == message and caught.value.located


@pytest.mark.parametrize(
    ("text", "message", "located"),
    [
        ("FROM", "dockerfile parse error on line 1: FROM requires either one or three arguments",
         True),
        ("FROM base AS foo\nFROM FOO", 'failed to parse stage name "FOO": invalid reference '
         "format: repository name (library/FOO) must be lowercase", True),
        ("FROM --platform=$NOPE base", "empty platform value from expression $NOPE", True),
        ("FROM --platform=foo base", "failed to parse platform foo: ", True),
        ("ENV a=b\nFROM base", "no build stage in current context", True),
        ("ARG a", "dockerfile contains no stages to build: there is no FROM", False),
        ("# only", "file with no instructions", True),
        ("# escape=x\nFROM base", "invalid escape token 'x' does not match ` or \\", False),
        ("# check=foo\nFROM base", 'failed to parse check options: invalid check option "foo"',
         False),
        ("# check=error=maybe\nFROM base", "failed to parse check options: failed to parse check "
         'option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax', False),
        ("# check=error=true\nfrom base AS X",
         "lint violation found for rules: StageNameCasing, FromAsCasing", False),
    ],
)  # fmt: skip
def test_errors_of_files(text: str, message: str, located: bool) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(text + "\n")
    found = str(caught.value)
    assert found == message or (message.endswith(": ") and found.startswith(message))
    assert caught.value.located == located


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("RUN \\\n\n", ["NoEmptyContinuation: Empty continuation line (line 3)"]),
        ("RUN a \\\n\n\n && b", ["NoEmptyContinuation: Empty continuation line (line 5)"]),
        ("ENV a=b\\", []),
        ("EXPOSE $P", []),
        ("ONBUILD run a", []),
        ("WORKDIR a b", ['WorkdirRelativePath: Relative workdir "a b" can have unexpected '
                         "results if the base image changes (line 2)"]),
        ("WORKDIR /x\nWORKDIR b", []),
        ("ENV p=1\nENV r=$N", ["UndefinedVar: Usage of undefined variable '$N' (did you mean $p?) "
                               "(line 3)"]),
        ("ENV long=1\nENV r=$N", ["UndefinedVar: Usage of undefined variable '$N' (line 3)"]),
        ("COPY <<E /f\n${BASE:-x} ${NOPE:-y} $NOPE\nE",
         ["UndefinedVar: Usage of undefined variable '$NOPE' (line 2)"]),
    ],
)  # fmt: skip
def test_findings_and_their_places(text: str, findings: list[str]) -> None:
    assert [warned.text for warned in plan(f"FROM base\n{text}").warnings] == findings


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("VOLUME $X", ["UndefinedVar"]),
        ("STOPSIGNAL $S", ["UndefinedVar"]),
        ("MAINTAINER x\nEXPOSE x", ["MaintainerDeprecated"]),
    ],
)
def test_an_error_keeps_what_was_found_before(text: str, findings: list[str]) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(f"FROM base\n{text}")
    assert [warned.rule.name for warned in findings_of(caught.value)] == findings


def test_a_command_may_be_empty() -> None:
    for text in ("RUN", "RUN  ", "RUN --mount=type=cache,target=/x"):
        (run,) = ops(plan(f"FROM base\n{text}\n"), llb.ExecOp)
        assert run.meta.args == ("/bin/sh", "-c", "")
    (run,) = ops(plan('FROM base\nRUN [""]'), llb.ExecOp)
    assert run.meta.args == ("",)


@pytest.mark.parametrize("mark", ['"E F"', "'E F'"])
def test_the_name_of_a_script_may_be_quoted(mark: str) -> None:
    found = plan(f"FROM base\nRUN <<{mark}\necho\nls\nE F")
    (run,) = ops(found, llb.ExecOp)
    assert run.meta.args[-1] == "echo\nls\n"
    assert found.output is not None
    assert found.output.vertex.label == f"[2/2] RUN <<{mark} (echo...)"


def test_steps_are_shown_with_values() -> None:
    found = plan("FROM base\nARG X=arg\nrun echo $X ${BASE} '$X' \\$X $UNSET")
    assert found.output is not None
    assert found.output.vertex.label == "[2/2] RUN echo arg 1 '$X' $X $UNSET"


def test_an_argument_hides_an_earlier_variable() -> None:
    found = plan("FROM base\nENV A=env\nARG A\nRUN x\nENV B=$A\nENV A=new C=$A\nRUN y",
                 build_args={"A": "given"})  # fmt: skip
    first, second = ops(found, llb.ExecOp)
    assert "A=given" in first.meta.env and "A=env" not in first.meta.env
    assert "A=new" in second.meta.env
    assert env_of(found) == {"PATH": "/bin", "BASE": "1", "A": "new", "B": "given", "C": "given"}
    assert "RUN |1 A=given /bin/sh -c x # buildkit" in [step.created_by for step in found.history]
    assert env_of(plan("FROM base\nARG PATH=/x\nENV Y=$PATH"))["Y"] == "/x"


def test_proxies_are_set_in_both_cases() -> None:
    (run,) = ops(plan("FROM base\nRUN x", build_args={"HTTP_PROXY": "u", "no_proxy": "v"}),
                 llb.ExecOp)  # fmt: skip
    assert run.meta.proxy == {"HTTP_PROXY": "u", "http_proxy": "u", "NO_PROXY": "v",
                              "no_proxy": "v"}  # fmt: skip


def test_history_and_paths_as_written() -> None:
    found = plan("FROM base\nLABEL a=b a=c\nWORKDIR /a/./b//c/\nWORKDIR ''\nMAINTAINER me")
    assert [step.created_by for step in found.history] == [
        "LABEL a=b a=c", "WORKDIR /a/./b//c/", "WORKDIR /a/b/c", "MAINTAINER me",
    ]  # fmt: skip
    assert found.config.labels == {"a": "c"} and found.config.working_dir == "/a/b/c"
    assert {step.author for step in found.history} == {""} and found.author == "me"


@pytest.mark.parametrize("name", ["SIGRTMIN+3", "term", "9", "65", "-1", "RTMAX-2"])
def test_signals(name: str) -> None:
    assert plan(f"FROM base\nSTOPSIGNAL {name}").config.stop_signal == name


def test_a_stage_inherits_arguments() -> None:
    text = "ARG X=1\nFROM base AS a\nARG X=5\nARG Y\nFROM a\nENV y=$X\nRUN x"
    found = plan(text)
    assert env_of(found)["y"] == "5"
    assert found.history[-1].created_by == "RUN |2 X=5 Y= /bin/sh -c x # buildkit"
    assert env_of(plan(text, phrases=ClassicPhrases()))["y"] == ""


def test_blanks_before_the_name_of_a_here_document() -> None:
    for text, wanted in (
        ("RUN cat << EOF >/x\nhi\nEOF", "cat << EOF >/x\nhi\nEOF"),
        ("RUN 3<< EOF cat <&3\nhi\nEOF", "3<< EOF cat <&3\nhi\nEOF"),
        ("RUN << EOF\nhi\nEOF", "hi\n"),
    ):
        (run,) = ops(plan(f"FROM base\n{text}\n"), llb.ExecOp)
        assert run.meta.args[-1] == wanted


def test_a_stage_with_another_source_has_a_number() -> None:
    for text in ("RUN --mount=type=cache,target=/c x", "COPY --from=base /x /x"):
        found = plan(f"FROM base\n{text}")
        assert found.output is not None
        assert found.output.vertex.label == f"[stage-0 2/2] {text}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('RUN false "a\\$b" $BASE \\\\ ${X:-y} \'$BASE\' "$BASE"',
         'RUN false "a$b" 1 \\ ${X:-y} \'$BASE\' "1"'),
        ("RUN echo it's $BASE", "RUN echo it's 1"),
        ("RUN ${", "RUN ${"),
    ],
)  # fmt: skip
def test_words_in_quotes_are_shown_as_they_are(text: str, shown: str) -> None:
    found = plan(f"FROM base\n{text}")
    assert found.output is not None and found.output.vertex.label == f"[2/2] {shown}"


def test_an_image_has_the_requested_platform() -> None:
    arm = Platform.parse("linux/arm64")
    assert plan("FROM --platform=linux/amd64 base\nRUN x", platform=arm).platform == arm
    assert plan("FROM --platform=linux/arm64 base\nRUN x").platform == Platform.host()


def test_findings_of_a_build_that_they_end() -> None:
    with pytest.raises(DockerfileError) as caught:
        plan("FROM base AS X", build_args={"BUILDKIT_DOCKERFILE_CHECK": "error=true"})
    assert [warned.rule.name for warned in findings_of(caught.value)] == ["StageNameCasing"]
    with pytest.raises(
        DockerfileError, match="failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK"
    ):
        plan("FROM base", build_args={"BUILDKIT_DOCKERFILE_CHECK": "foo"})


def test_a_url_without_a_file_name() -> None:
    (copy,) = ops(plan("FROM base\nADD https://host/ /x/"), llb.FileOp)
    assert copy.actions[0].action.src == "/__unnamed__"
    with pytest.raises(DockerfileError, match="cannot determine filename from url"):
        plan("FROM base\nADD https://host/ /x/", phrases=ClassicPhrases())
