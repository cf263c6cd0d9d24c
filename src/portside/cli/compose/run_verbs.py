"""run, exec, cp, export and commit."""

from __future__ import annotations

import os

from portside.cli.compose.build_output import image_tools
from portside.cli.compose.compose_session import switch
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.compose.project_lists import one_container
from portside.cli.session import Failed
from portside.cli.verb_table import load
from portside.compose.observed import containers
from portside.compose.progress_events import DONE, WORKING, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.converge import UpOptions
    from portside.compose.one_off import OneOff
    from portside.compose.project import Project
    from portside.flags.table import Options


def _call(session: ComposeSession, name: str, words: list[str]) -> int:
    """Another verb, on a container that is known by now."""
    verb = load(name)
    options, arguments = verb.parse(words, f"{session.program} {name}")
    return verb.handler(session, options, arguments) or 0


# -- run -------------------------------------------------------------------------------------


@compose_verb("run", usage="[OPTIONS] SERVICE [COMMAND] [ARGS...]", arguments=(1, None),
              interspersed=False, about="Run a command in a new container of a service", flags="""
      --build                Build the image first
      --cap-add list         Add a capability
      --cap-drop list        Drop a capability
  -d, --detach               Run the container in the background and print its ID
      --entrypoint string    Command to run instead of the image's ENTRYPOINT
  -e, --env list             Set a variable
      --env-from-file list   Read variables from a file
  -i, --interactive          Forward standard input (default true)
  -l, --label list           Add a label
      --labels list          hidden:alias label
      --name string          The container's name
  -T, --no-TTY               No terminal (default when standard output is not a terminal)
      --no-deps              Do not start dependencies
  -p, --publish list         Publish a port
      --pull string          Pull the image: always, missing or never (default "policy")
  -q, --quiet                Print nothing but the command's output
      --quiet-build          Build without showing output
      --quiet-pull           Pull without showing progress
      --remove-orphans       Remove containers of services that the files do not define
      --rm                   Remove the container when it ends
  -P, --service-ports        Publish the service's ports
  -t, --tty                  hidden:
      --use-aliases          Use the service's names in its networks
  -u, --user string          The user to run as
  -v, --volume list          Mount a volume or a directory
      --volumes list         hidden:alias volume
  -w, --workdir string       The directory to start in
""")  # fmt: skip
def run(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.compose import one_off

    if options.many("publish") and options.flag("service-ports"):
        raise Failed(1, "--service-ports and --publish are incompatible")
    tty = _wants_tty(options)
    service, *command = arguments
    if options.flag("quiet"):
        session.progress = "quiet"
    project = session.load([service], dependencies=not options.flag("no-deps"))
    wanted = _one_off(project, options, service, command, tty)
    if session.remotes.is_main:
        from portside.cli.compose import remote_consent

        remote_consent.ask(session, project, False, wanted.environment)
    detached = options.flag("detach")
    if tty and wanted.interactive and not detached and not os.isatty(0):
        raise Failed(1, "the input device is not a TTY")
    policy = options.text("pull")
    if policy:
        for item in project.services.values():
            item["pull_policy"] = policy
    actions = session.actions(project)
    tools = image_tools(
        session, project, quiet=options.flag("quiet-pull"), force_build=options.flag("build")
    )
    choices = _up_options(project, options)
    made = one_off.create(
        actions, wanted, choices, tools, session.parallel, not options.flag("no-deps")
    )
    session.finish()
    if session.dry_run:
        return 0
    if detached:
        return _call(session, "start", [made.id])
    words = ["--attach", *(["--interactive"] if wanted.interactive else []), made.id]
    return _call(session, "start", words)


def _up_options(project: Project, options: Options) -> UpOptions:
    from portside.compose.converge import UpOptions

    ignore = switch("COMPOSE_IGNORE_ORPHANS", project.environment.get)
    return UpOptions(remove_orphans=options.flag("remove-orphans"), ignore_orphans=ignore)


def _wants_tty(options: Options) -> bool:
    if options.given("tty"):
        if options.given("no-TTY"):
            raise Failed(1, "--tty and --no-TTY can't be used together")
        return options.flag("tty")
    if options.given("no-TTY"):
        return not options.flag("no-TTY")
    if not options.given("interactive") and not os.isatty(0):
        return False
    return os.isatty(1)


def _one_off(
    project: Project, options: Options, service: str, command: list[str], tty: bool
) -> OneOff:
    from portside.compose import dotenv
    from portside.compose.one_off import OneOff, parsed

    environment: dict[str, str | None] = {}
    for text in options.many("env"):
        name, separator, value = text.partition("=")
        found = value if separator else project.environment.get(name)
        if found is not None:
            environment[name] = found
    for path in options.many("env-from-file"):
        try:
            values = dotenv.read(path, environment.get)
        except OSError as err:
            raise Failed(1, f"open {path}: {(err.strerror or '').lower()}") from None
        for name, value in values.items():
            environment.setdefault(name, value)
    labels = {}
    for text in options.many("label"):
        name, separator, value = text.partition("=")
        if not separator:
            raise Failed(1, "label must be set as KEY=VALUE")
        labels[name] = value
    entrypoint = None
    if options.given("entrypoint"):
        import shlex

        entrypoint = shlex.split(options.text("entrypoint"))
    ports, volumes = parsed(project, options.many("publish"), options.many("volume"))
    return OneOff(
        service, command, name=options.text("name"), entrypoint=entrypoint,
        environment=environment, labels=labels, user=options.text("user"),
        workdir=options.text("workdir"), cap_add=options.many("cap-add"),
        cap_drop=options.many("cap-drop"), tty=tty,
        interactive=options.flag("interactive"), auto_remove=options.flag("rm"),
        use_aliases=options.flag("use-aliases"),
        ports=None if options.flag("service-ports") else ports, volumes=volumes,
    )  # fmt: skip


# -- exec ------------------------------------------------------------------------------------


@compose_verb("exec", usage="[OPTIONS] SERVICE COMMAND [ARGS...]", arguments=(2, None),
              interspersed=False, about="Run a command in a running container", flags="""
  -d, --detach           Run the command in the background
  -e, --env list         Set a variable
      --index int        Which of the service's containers
  -i, --interactive      hidden: (default true)
  -T, --no-tty           No terminal (default when standard output is not a terminal)
      --no-TTY           hidden:alias no-tty
      --privileged       Run the command with all privileges
  -t, --tty              hidden:
  -u, --user string      The user to run as
  -w, --workdir string   The directory to start in
""")  # fmt: skip
def exec_(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    _, name = session.project_or_name()
    service, *command = arguments
    item = one_container(session, name, service, options.number("index") or 0)
    tty = not options.flag("no-tty") if options.given("no-tty") else os.isatty(1)
    words = []
    for text in options.many("env"):
        words += ["--env", text]
    for flag in ("user", "workdir"):
        if options.text(flag):
            words += [f"--{flag}", options.text(flag)]
    for flag, wanted in (
        ("detach", options.flag("detach")), ("privileged", options.flag("privileged")),
        ("interactive", options.flag("interactive") and not options.flag("detach")),
        ("tty", tty),
    ):  # fmt: skip
        if wanted:
            words.append(f"--{flag}")
    return _call(session, "exec", [*words, item.id, *command])


# -- files -----------------------------------------------------------------------------------


@compose_verb("cp", usage="[OPTIONS] SERVICE:SRC_PATH DEST_PATH|-\n"
              "\tcompose cp [OPTIONS] SRC_PATH|- SERVICE:DEST_PATH", arguments=(2, 2),
              about="Copy files between a service's containers and this machine", flags="""
      --all           Also containers of run
  -a, --archive       Keep owner and group
  -L, --follow-link   Copy what a symbolic link in SRC_PATH points to
      --index int     Which of the service's containers
""")  # fmt: skip
def cp(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli.cp import split
    from portside.cli.cp_tar import Copy

    _, name = session.project_or_name()
    (source, source_path), (target, target_path) = map(split, arguments)
    if source and target:
        raise Failed(1, "copying between services is not supported")
    if not source and not target:
        raise Failed(1, "unknown copy direction")
    service = source or target
    if options.number("index"):
        found = [one_container(session, name, service, options.number("index") or 0, all=True)]
    else:
        found = containers(session.pool, name, services=[service],
                           one_off=None if options.flag("all") else False)  # fmt: skip
        if not found:
            raise Failed(1, f'no container found for service "{service}"')
        found = found[:1] if source else found
    report = session.board("Copying").report
    copy = Copy(session, follow=options.flag("follow-link"), archive=options.flag("archive"),
                quiet=True)  # fmt: skip
    for item in found:
        there = f"{item.name}:{source_path if source else target_path}"
        text = f"copy {there} to {target_path}" if source else f"copy {source_path} to {there}"
        report(Event(item.name, WORKING, "Copying", detail=text))
        if not session.dry_run:
            if source:
                copy.from_container(item.id, source_path, target_path)
            else:
                copy.to_container(source_path, item.id, target_path)
        report(Event(item.name, DONE, "Copied", detail=text))
    return 0


@compose_verb("export", usage="[OPTIONS] SERVICE", arguments=(1, 1),
              about="Write a container's file system to a tar archive", flags="""
      --index int       Which of the service's containers
  -o, --output string   Write to a file, not to standard output
""")  # fmt: skip
def export(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    _, name = session.project_or_name()
    item = one_container(session, name, arguments[0], options.number("index") or 0, all=True)
    words = ["--output", options.text("output")] if options.text("output") else []
    return 0 if session.dry_run else _call(session, "export", [*words, item.id])


@compose_verb("commit", usage="[OPTIONS] SERVICE [REPOSITORY[:TAG]]", arguments=(1, 2),
              about="Make an image of the changes in a container", flags="""
  -a, --author string    Author to keep in the image
  -c, --change list      Apply a Dockerfile instruction to the image
      --index int        Which of the service's containers
  -m, --message string   Comment to keep in the image
  -p, --pause            Pause the container meanwhile (default true)
""")  # fmt: skip
def commit(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli.cp import committed

    _, name = session.project_or_name()
    item = one_container(session, name, arguments[0], options.number("index") or 0, all=True)
    report = session.board("Committing").report
    report(Event(item.name, WORKING, "Committing", detail=f"Commit {item.name}"))
    if not session.dry_run:
        image = arguments[1] if len(arguments) > 1 else ""
        made = committed(session, options, item.id, image)
        report(Event(item.name, DONE, f"Committed as {made}", detail=f"Commit {item.name}"))
    return 0
