"""config: the project in its canonical form, or a part of it."""

from __future__ import annotations

import sys

from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed, write_text
from portside.client.client import path_of
from portside.compose import config_output
from portside.compose.requests import image_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project
    from portside.flags.table import Options


@compose_verb("config", usage="[OPTIONS] [SERVICE...]",
              about="Check the files, and print the project in its canonical form", flags="""
      --environment             Print the variables that the files can use
      --format string           yaml or json
      --hash string             Print the hashes of these services, * for all of them
      --images                  Print the names of images
      --lock-image-digests      Print a file that pins images to their digests
      --models                  Print the names of models
      --networks                Print the names of networks
      --no-consistency          Do not check whether the parts fit together
      --no-env-resolution       Do not read env_file of services
      --no-interpolate          Leave variables as they are
      --no-normalize            Do not fill in what is implied
      --no-path-resolution      Leave paths as they are
  -o, --output string           Write to a file, not to standard output
      --profiles                Print the names of profiles
  -q, --quiet                   Check the files only
      --resolve-image-digests   Pin images to their digests
      --services                Print the names of services
      --variables               Print the variables that the files use, and their defaults
      --volumes                 Print the names of volumes
""")  # fmt: skip
def config(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    listed = next((name for name in _LISTS if options.flag(name)), "")
    if listed:
        if listed == "services" and options.flag("no-interpolate"):
            names = list(session.load_model(**_ways(session, options)).get("services") or ())
        else:
            project = _load(session, options, arguments if listed in _CHOOSING else [])
            names = _LISTS[listed](project)
        _print(session, options, "".join(f"{name}\n" for name in names))
    elif options.text("hash"):
        _hashes(session, options)
    elif options.flag("variables"):
        _variables(session, options)
    else:
        _canonical(session, options, arguments)
    return 0


def _profiles(project: Project) -> list[str]:
    services = (*project.services.values(), *project.disabled.values())
    return sorted({name for service in services for name in service.get("profiles") or ()})


def _images(project: Project) -> list[str]:
    return [image_of(project, name, service) for name, service in project.services.items()]


_LISTS: dict[str, Any] = {
    "services": lambda project: list(project.services),
    "volumes": lambda project: list(project.volumes),
    "networks": lambda project: list(project.networks),
    "models": lambda project: [item["model"] for item in project.models.values()
                               if item.get("model")],
    "profiles": _profiles,
    "images": _images,
    "environment": lambda project: sorted(
        f"{name}={value}" for name, value in project.environment.items()
    ),
}  # fmt: skip
"""The lists, in the order in which one of several flags is chosen."""
_CHOOSING = ("profiles", "images", "environment")
"""Lists that are of the chosen services only."""


def _load(
    session: ComposeSession, options: Options, names: list[str], environment: bool = True
) -> Project:
    return session.load(
        names,
        checks=not options.flag("no-consistency"),
        environment=environment and not options.flag("no-env-resolution"),
        keeps_label_files=False,
        **_ways(session, options),
    )


def _ways(session: ComposeSession, options: Options) -> dict[str, bool]:
    return {
        "normalizes": not (options.flag("no-normalize") or session.is_compatible),
        "resolves_paths": not options.flag("no-path-resolution"),
    }


def _print(session: ComposeSession, options: Options, text: str) -> None:
    """Text to where it is wanted, as it is: docker compose ends JSON without a line end."""
    if options.flag("quiet") or not text:
        return
    if path := options.text("output"):
        write_text("write the configuration", path, text)
    else:
        sys.stdout.write(text)
        if sys.stdout.isatty() and not text.endswith("\n"):
            sys.stdout.write("\n")


def _hashes(session: ComposeSession, options: Options) -> None:
    # env_file is not read: the hashes of docker compose's config are made so, not those of up
    project = _load(session, options, [], environment=False)
    wanted = options.text("hash")
    names = list(project.services) if wanted == "*" else sorted(wanted.split(","))
    lines = [f"{name} {config_output.service_hash(project.service(name))}\n" for name in names]
    _print(session, options, "".join(lines))


def _variables(session: ComposeSession, options: Options) -> None:
    from portside.cli import table
    from portside.compose.interpolation import variables

    found = dict(sorted(variables(session.load_model(**_ways(session, options))).items()))
    kind = options.text("format")
    if kind == "json":
        values = {
            name: {"Name": name, "DefaultValue": item["default"],
                   "PresenceValue": item["presence"], "Required": item["required"]}
            for name, item in found.items()
        }  # fmt: skip
        text = config_output.go_json(values, 4) + "\n\n"
    elif kind == "yaml":
        text = config_output.to_yaml(
            {name: {"name": name, "defaultvalue": item["default"],
                    "presencevalue": item["presence"], "required": item["required"]}
             for name, item in found.items()}
        )  # fmt: skip
    else:
        lines = ["NAME\tREQUIRED\tDEFAULT VALUE\tALTERNATE VALUE"]
        lines += [
            f"{name}\t{'true' if item['required'] else 'false'}\t{item['default']}"
            f"\t{item['presence']}"
            for name, item in found.items()
        ]  # fmt: skip
        text = "\n".join(table.aligned(lines, 20, 3)) + "\n"
    _print(session, options, text)


def _canonical(session: ComposeSession, options: Options, names: list[str]) -> None:
    kind = options.text("format", "yaml")
    if kind not in ("yaml", "json"):
        raise Failed(1, f'unsupported format "{kind}"')
    locks = options.flag("lock-image-digests")
    pins = locks or options.flag("resolve-image-digests")
    values: dict[str, Any]
    if options.flag("no-interpolate"):
        model = session.load_model(**_ways(session, options))
        if pins:
            pin(session, model.get("services") or {})
        values = config_output.sorted_keys(_locked(model) if locks else model, kind == "json")
        interpolates = False
    else:
        project = _load(session, options, names)
        if pins:
            pin(session, project.services)
        values = config_output.encoded(project, kind == "json")
        values = _locked(values) if locks else values
        interpolates = True
    text = config_output.go_json(values, 2) if kind == "json" else config_output.to_yaml(values)
    _print(session, options, text.replace("$", "$$") if interpolates else text)


def _locked(values: Any) -> dict[str, Any]:
    return {
        "services": {name: {"image": service["image"]} if service.get("image") else {}
                     for name, service in (values.get("services") or {}).items()}
    }  # fmt: skip


def pin(session: ComposeSession, services: dict[str, Any]) -> dict[str, Any]:
    """Put the digests that registries know into the images' names; the descriptors by these."""
    from portside.cli import references

    names: dict[str, str] = {}
    found: dict[str, Any] = {}
    for service in services.values():
        image = service.get("image")
        if not image or "@" in image:
            continue
        if image not in names:
            descriptor = distribution(session, image)["Descriptor"]
            names[image] = f"{references.canonical(image)}@{descriptor['digest']}"
            found[names[image]] = descriptor
        service["image"] = names[image]
    return found


def distribution(session: ComposeSession, image: str) -> Any:
    """What the registry has under an image's name: its descriptor and platforms."""
    from portside.cli import auth, references

    with session.pool.client() as client:
        path = f"{path_of('distribution', references.canonical(image))}/json"
        headers = auth.header(session.config, image)
        return client._value(client.request("GET", path, headers=headers))
