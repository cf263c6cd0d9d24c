"""Dockerfiles as text: logical lines, instructions, expansion, ignore rules, checks."""

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile import lint, shell_words
from portside.builder.dockerfile.diagnostics import DockerfileError, nearest
from portside.builder.dockerfile.lint import CheckOptions, Linter, check_file
from portside.builder.dockerfile.syntax import PARSERS, parse, parse_trigger
from portside.model.dockerignore import Ignore, read_patterns
from portside.model.errors import InvalidParameter


def only(text: str) -> ins.Instruction:
    """The one instruction after FROM."""
    (stage,) = parse(f"FROM scratch\n{text}").stages
    (found,) = stage.instructions
    return found


# -- lines ---------------------------------------------------------------------------------------


def test_continuation_comments_and_blank_lines_in_between() -> None:
    found = only("RUN a \\\n# no\n   # no\n\n  && b \\\n&& c")
    assert isinstance(found, ins.Run)
    assert found.command.words == ("a   && b && c",)
    assert found.span.line, found.span.end_line == (2, 7)


def test_an_escaped_escape_does_not_continue() -> None:
    (stage,) = parse("FROM a\nRUN dir c:\\\\\nRUN b").stages
    assert len(stage.instructions) == 2


def test_the_escape_directive() -> None:
    (stage,) = parse("# escape=`\nFROM a\nCOPY x `\n C:\\\nRUN b").stages
    copy = stage.instructions[0]
    assert isinstance(copy, ins.Copy) and copy.destination == "C:\\"


def test_directives_end_at_the_first_other_comment() -> None:
    assert parse("# syntax=a\n# ESCAPE = `\nFROM x").directives == {"syntax": "a", "escape": "`"}
    assert parse("# about\n# escape=`\nFROM x").directives == {}
    assert parse("\n# escape=`\nFROM x").directives == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# escape=x\nFROM a", "invalid escape token 'x'"),
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used"),
    ],
)
def test_bad_directives(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        parse(text)


def test_a_trigger_is_read_where_the_image_is_a_base() -> None:
    for text in ("FOO bar", "COPY --foo a b", "COPY a"):
        trigger = only(f"ONBUILD {text}")
        assert isinstance(trigger, ins.OnBuild)
        assert trigger.trigger == text and trigger.inner is None


def test_heredocs() -> None:
    run = only("RUN <<EOF cat >x\na\n\\\nEOF")
    assert isinstance(run, ins.Run)
    assert [(h.name, h.content, h.expand) for h in run.command.heredocs] == [
        ("EOF", "a\n\\\n", True)
    ]
    copy = only("COPY <<-'one' <<two /to/\n\t\ta $X\n\tone\nb\ntwo")
    assert isinstance(copy, ins.Copy)
    assert copy.sources == () and copy.destination == "/to/"
    assert [(h.name, h.content, h.expand, h.chomp) for h in copy.heredocs] == [
        ("one", "a $X\n", False, True),
        ("two", "b\n", True, False),
    ]
    trigger = only("ONBUILD RUN <<E\nx\nE")
    assert isinstance(trigger, ins.OnBuild)
    again = parse_trigger(trigger.trigger)
    assert isinstance(again, ins.Run) and again.command.heredocs[0].content == "x\n"
    assert only('RUN ["cat", "<<EOF"]').span.end_line == 2


def test_crlf_and_bom() -> None:
    (stage,) = parse("\ufeffFROM a\r\nRUN b \\\r\n c\r\nCOPY <<E /\r\nx\r\nE\r\n").stages
    run, copy = stage.instructions
    assert isinstance(run, ins.Run) and run.command.words == ("b  c",)
    assert isinstance(copy, ins.Copy) and copy.heredocs[0].content == "x\n"


# -- instructions --------------------------------------------------------------------------------


def test_every_instruction_of_the_reference_has_a_parser() -> None:
    assert set(PARSERS) == set(
        "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN "
        "SHELL STOPSIGNAL USER VOLUME WORKDIR".split()
    )


def test_flags() -> None:
    run = only("RUN --mount=type=cache,target=/c --network=none --mount=type=tmpfs,target=/t make")
    assert isinstance(run, ins.Run)
    assert run.mounts == ("type=cache,target=/c", "type=tmpfs,target=/t")
    assert run.network == "none" and run.command.words == ("make",)
    copy = only('COPY --chown="a b" --link --exclude=*.md --exclude=x --parents=false a b')
    assert isinstance(copy, ins.Copy)
    assert (copy.chown, copy.link, copy.exclude) == ("a b", True, ("*.md", "x"))
    add = only("ADD --keep-git-dir --unpack=false --checksum=sha256:0 u d")
    assert isinstance(add, ins.Add)
    assert (add.keep_git_dir, add.unpack, add.checksum) == (True, False, "sha256:0")


def test_pairs() -> None:
    env = only('ENV a=1 b="2 3" c=d\\ e')
    assert isinstance(env, ins.Env)
    assert [(p.key, p.value) for p in env.pairs] == [("a", "1"), ("b", '"2 3"'), ("c", "d\\ e")]
    old = only("ENV name all  the rest=x")
    assert isinstance(old, ins.Env)
    assert old.pairs == (ins.Pair("name", "all  the rest=x", legacy=True),)


def test_exec_form_only_when_it_is_a_list_of_strings() -> None:
    cmd = only('CMD ["a", "b c"]')
    assert isinstance(cmd, ins.Cmd) and cmd.command.words == ("a", "b c")
    cmd = only("CMD ['a']")
    assert isinstance(cmd, ins.Cmd) and cmd.command.is_shell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file with no instructions"),
        ("RUN a", "no build stage in current context"),
        ("FROM a AS", "either one or three"),
        ("FROM a AS 1b", 'invalid name for build stage: "1b"'),
        ("FROM a\nRUNN b", r"line 2: unknown instruction: RUNN \(did you mean RUN\?\)"),
        ("FROM a\nCOPY --form=b c d", r"unknown flag: --form \(did you mean from\?\)"),
        ("FROM a\nCOPY c", "only one was provided"),
        ("FROM a\nENV a", "ENV must have two arguments"),
        ("FROM a\nENV a=1 b", 'can\'t find = in "b"'),
        ("FROM a\nLABEL a=1 =b", "LABEL names can not be blank"),
        ("FROM a\nRUN <<E\nx", "unterminated heredoc"),
        ("FROM a\nSHELL sh -c", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nCMD [1]", "comprised of strings only"),
        ("FROM a\nONBUILD ONBUILD RUN a", "Chaining ONBUILD"),
        ("FROM a\nONBUILD FROM b", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nHEALTHCHECK CMDD x", 'Unknown type "CMDD" in HEALTHCHECK'),
        ("FROM a\nHEALTHCHECK NONE x", "takes no arguments"),
        ("FROM a\nRUN --network=hots x", r"invalid network mode.*did you mean host"),
        ("FROM a\nCOPY --link=maybe a b", "expecting boolean value for flag --link"),
        ("FROM a\nCOPY --chown=1 --chown=2 a b", "duplicate flag specified: --chown"),
        ('FROM a\nVOLUME [""]', "empty string"),
    ],
)
def test_errors_report_what_and_where(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        parse(text, "my.Dockerfile")
    err = caught.value
    assert err.position.startswith(f"my.Dockerfile:{err.span.line}:")
    assert err.span.line == max(1, text.count("\n") + 1 - text.count("<<E"))
    if text:
        assert f"{err.span.line:4} | >>> " in err.snippet()


def test_a_snippet_shows_the_lines_around() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse("FROM a\n\n# x\nRUN b\nFOO \\\n c\nRUN d\n")
    assert caught.value.snippet() == (
        "Dockerfile:5\n--------------------\n   3 |     # x\n   4 |     RUN b\n"
        "   5 | >>> FOO \\\n   6 | >>>  c\n   7 |     RUN d\n   8 |\n--------------------\n"
    )


def test_suggestions() -> None:
    assert nearest("bulid", ("build", "base")) == "build"
    assert nearest("x", ("build", "y", "z")) == "y"
    assert nearest("x", ("build", "yyy")) == ""
    assert nearest("BUILD", ("build", "built")) == ""


# -- expansion -----------------------------------------------------------------------------------

VARIABLES = {"v": "value", "empty": "", "path": "/a/b/c.tar.gz", "two": "a b", "n": "v"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$v", "value"), ("${v}", "value"), ("a${v}b", "avalueb"), ("$v.x", "value.x"),
        ("\\$v", "$v"), ("'$v'", "$v"), ('"$v"', "value"), ('"\\$v"', "$v"), ("\\a", "a"),
        ('"\\a"', "\\a"), ("$no", ""), ("${no:-d}", "d"), ("${empty:-d}", "d"),
        ("${empty-d}", ""), ("${no-d}", "d"), ("${v:+s}", "s"), ("${empty:+s}", ""),
        ("${empty+s}", "s"), ("${no+s}", ""), ("${v:?x}", "value"), ("${no:-${v}}", "value"),
        ("${no:-${no:-deep}}", "deep"), ("${no:-'a b'}", "a b"), ("${path#*/}", "a/b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"), ("${path%.*}", "/a/b/c.tar"), ("${path%%.*}", "/a/b/c"),
        ("${path/b/x}", "/a/x/c.tar.gz"), ("${path//a/x}", "/x/b/c.txr.gz"),
        ("${path/\\//-}", "-a/b/c.tar.gz"), ("${path//\\//-}", "-a-b-c.tar.gz"),
        ("${v#?}", "alue"), ("${v%%?}", "valu"), ("$", "$"), ("a$", "a$"), ("$=", "$="),
        ("${v%$no}", "value"), ("${path#/*$n}", "/a/b/c.tar.gz"),
    ],
)  # fmt: skip
def test_expansion(text: str, result: str) -> None:
    assert shell_words.expand(text, VARIABLES) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${", "bad substitution"), ("${v", "unsupported modifier"), ("${v:", "modifier"),
        ("${no:?why}", "no: why"), ("${no?}", "no: is not allowed to be unset"),
        ("${v:=x}", r"unsupported modifier \(:=\)"), ("${v/a}", "missing '/'"),
        ("'a", "single-quote"), ('"a', "double-quote"), ("${v:-a", "missing '}'"),
        ("${empty:?e}", "empty: e"), ("${v^}", "unsupported modifier"),
    ],
)  # fmt: skip
def test_bad_expansion(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        shell_words.expand(text, VARIABLES)


def test_words() -> None:
    assert shell_words.words('a "b c" $two "$two" \'d\'e f\\ g ""', VARIABLES) == [
        "a", "b c", "a", "b", "a b", "de", "f g", "",
    ]  # fmt: skip
    assert shell_words.expand("$no ${no}", {}, keep_unset=True) == "$no ${no}"
    assert shell_words.expand("`$v", VARIABLES, "`") == "$v"
    expansion = shell_words.process("\"$v\" '$v' \\$v \\n", VARIABLES, raw_quotes=True)
    assert expansion.text == "\"value\" 'value' $v \\n"


def test_expansion_is_bounded() -> None:
    with pytest.raises(InvalidParameter, match="longer than"):
        shell_words.expand("$a" * 100, {"a": "x" * (1 << 20)})
    with pytest.raises(InvalidParameter, match="nested deeper"):
        shell_words.expand("${a:-" * 5000, {})


# -- ignore rules --------------------------------------------------------------------------------


def excluded(text: str, *paths: str) -> list[str]:
    ignore = Ignore(read_patterns(text))
    return [path for path in paths if ignore.excludes(path)]


def test_the_four_examples() -> None:
    assert excluded("# comment\n", "comment", "# comment") == []
    assert excluded("/tmp\n", "tmp", "tmp/a", "a/tmp") == ["tmp", "tmp/a"]
    paths = ("README.md", "a.md", "b.txt", "sub/c.md")
    assert excluded("*.md\n!README.md\n", *paths) == ["a.md"]
    assert excluded("tem?\n", "temp", "tema", "tem", "tempo", "a/temp") == ["temp", "tema"]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("*/temp*", ["a/temporary.txt", "a/temp"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["a/b/temporary.txt"], ["a/temp"]),
        ("**/*.go", ["a.go", "a/b.go", "a/b/c.go"], ["a.goo"]),
        ("**", ["a", "a/b"], []),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**/b", ["b", "a/b", "a/b/c"], ["ab"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb"]),
        ("*\n!a\n!a/b", ["c"], ["a", "a/b", "a/x"]),
        ("a\n!a/b\na/b/c", ["a/x", "a/b/c"], ["a/b", "a/b/d"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README-1.md"]),
        ("!x\nx", ["x"], []),
        ("./a/../b/", ["b", "b/c"], ["a"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("a\\*", ["a*"], ["ab"]),
        ("  a  ", ["a"], [" a"]),
        (" # a", ["# a"], []),
        ("a b", ["a b"], ["a"]),
        ("dir/*.c", ["dir/a.c"], ["dir/x/a.c"]),
    ],
)
def test_ignore_rules(text: str, inside: list[str], outside: list[str]) -> None:
    assert excluded(text, *inside, *outside) == inside


def test_an_excluded_directory_is_walked_only_for_an_exception() -> None:
    ignore = Ignore(read_patterns("node_modules\nbuild\n!build/keep\n"))
    assert ignore.prunes("node_modules") and not ignore.prunes("build")
    assert ignore.prunes("build/other") and not ignore.prunes("src")
    assert not Ignore(read_patterns("a\n!**/x")).prunes("a")


@pytest.mark.parametrize(
    ("exception", "directory", "pruned"),
    [
        ("\\/?", "a", True), ("b\\/c", "b", False), ("a\\/c", "b", True),
        ("[\\/a]/c", "a", False), ("[]b]/c", "b", False), ("\\b/c", "b", False),
        ("b\\\\/c", "b", True),
    ],
)  # fmt: skip
def test_an_exception_is_cut_at_its_slashes(exception: str, directory: str, pruned: bool) -> None:
    """An escaped slash is one too; one in a class is not."""
    assert Ignore(["?", f"!{exception}"]).prunes(directory) == pruned
    assert Ignore(["[^?]", f"!{exception}"]).prunes("z/y")


@pytest.mark.parametrize("pattern", ["[", "a[", "a\\", "[]", "[a/b]"])
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(InvalidParameter):
        Ignore(read_patterns(pattern))


# -- checks --------------------------------------------------------------------------------------


def rules(text: str, options: str = "") -> list[str]:
    dockerfile = parse(text)
    linter = Linter(CheckOptions.parse(options or dockerfile.directives.get("check", "")))
    check_file(dockerfile, linter)
    return [warned.rule.name for warned in linter.warnings]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("FROM a AS Build", "StageNameCasing"),
        ("FROM a as b", "FromAsCasing"),
        ("FROM a\nRUN a \\\n\n b", "NoEmptyContinuation"),
        ("FROM a\nRUN a\nrun b", "ConsistentInstructionCasing"),
        ("FROM a AS b\nFROM c AS b", "DuplicateStageName"),
        ("FROM a AS scratch", "ReservedStageName"),
        ("FROM a\nCMD b", "JSONArgsRecommended"),
        ("FROM a\nENTRYPOINT b", "JSONArgsRecommended"),
        ("FROM a\nMAINTAINER b", "MaintainerDeprecated"),
        ('FROM a\nCMD ["a"]\nCMD ["b"]', "MultipleInstructionsDisallowed"),
        ("FROM a\nENV a b", "LegacyKeyValueFormat"),
        ("FROM a\nLABEL a b", "LegacyKeyValueFormat"),
        ("FROM --platform=$TARGETPLATFORM a", "RedundantTargetPlatform"),
        ("FROM a\nARG DB_PASSWORD", "SecretsUsedInArgOrEnv"),
        ("ARG GITHUB_TOKEN\nFROM a", "SecretsUsedInArgOrEnv"),
        ("FROM --platform=linux/amd64 a", "FromPlatformFlagConstDisallowed"),
        ("FROM a\nEXPOSE 80/TCP", "ExposeProtoCasing"),
        ("FROM a\nEXPOSE 127.0.0.1:80:80", "ExposeInvalidFormat"),
    ],
)
def test_checks(text: str, rule: str) -> None:
    assert rules(text) == [rule]
    assert rules(text, "skip=all") == rules(text, f"skip={rule}") == []


def test_who_names_the_shell_wants_it() -> None:
    assert rules('FROM a\nSHELL ["/bin/bash", "-c"]\nCMD b\nENTRYPOINT c') == []
    assert rules('FROM a\nCMD b\nSHELL ["/bin/bash", "-c"]') == ["JSONArgsRecommended"]


def test_check_directive() -> None:
    text = "# check=error=true;skip=StageNameCasing\nFROM a AS B\nMAINTAINER c"
    assert rules(text) == ["MaintainerDeprecated"]
    linter = Linter(CheckOptions.parse("error=true"))
    check_file(parse(text), linter)
    with pytest.raises(DockerfileError, match="rules: StageNameCasing, MaintainerDeprecated"):
        linter.fail_if_asked()
    with pytest.raises(DockerfileError, match=r"did you mean skip"):
        CheckOptions.parse("skpi=all")
    described = "# other text\nFROM a AS b"
    assert rules(described) == []
    assert rules(described, "experimental=all") == ["InvalidDefinitionDescription"]


def test_nothing_to_complain_of() -> None:
    assert rules('FROM a AS b\nARG PUBLIC_KEY\nRUN x \\\n# c\n y\nCMD ["a"]\nEXPOSE 80/tcp') == []
    assert sum(isinstance(value, lint.Rule) for value in vars(lint).values()) == 22


# -- wild input ----------------------------------------------------------------------------------

words = st.sampled_from(
    [*PARSERS, "from", "RUN", "--mount=type=bind", "--from=x", "<<EOF", "EOF", "<<-'A'", "A",
     '["a"', '"]', "$x", "${x:-", "}", "\\", "`", "# escape=`", "# check=skip=all", "'", '"',
     "=", "a=b", "AS", "/", "\t", " ", "\n", "\r\n", "#", "NONE", "CMD", "é", "\0"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(words, max_size=40).map(" ".join),
                 st.lists(words, max_size=40).map(lambda w: "FROM a\n" + "".join(w)),
                 st.binary(max_size=200)))  # fmt: skip
def test_any_text_gives_a_file_or_an_error_with_its_place(text: str | bytes) -> None:
    try:
        found = parse(text)
    except DockerfileError as err:
        assert 1 <= err.span.line <= err.span.end_line <= len(err.source.split("\n"))
        assert err.span.column >= 1 and err.snippet()
    else:
        count = found.source.count("\n") + 1
        for stage in found.stages:
            for item in (stage.base, *stage.instructions):
                assert 1 <= item.span.line <= item.span.end_line <= count
        check_file(found, Linter())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="${}:-+?#%/\\'\"ab x*`", max_size=60))
def test_any_word_expands_or_is_refused(text: str) -> None:
    try:
        found = shell_words.process(text, VARIABLES)
    except InvalidParameter as err:
        assert str(err)
    else:
        assert len("".join(found.words)) <= len(found.text)


@given(st.text(alphabet="ab c'\"$\\", max_size=30))
def test_quoting_gives_the_text_back(text: str) -> None:
    quoted = '"' + "".join(f"\\{c}" if c in '"$\\' else c for c in text) + '"'
    assert shell_words.expand(quoted, {}) == text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(alphabet="ab*?[]!/.\\#-^ ", max_size=12), max_size=5),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_pruned_directories_hold_nothing_wanted(patterns: list[str], parts: list[str]) -> None:
    try:
        ignore = Ignore(read_patterns("\n".join(patterns)))
    except InvalidParameter:
        return
    path = posixpath.normpath("/".join(parts)).lstrip("/")
    if path in ("", ".", "..") or path.startswith("../"):
        return
    above = posixpath.dirname(path)
    while above:
        if ignore.prunes(above):
            assert ignore.excludes(path)
        above = posixpath.dirname(above)
