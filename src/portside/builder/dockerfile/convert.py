"""From a Dockerfile to a plan: the entry, and which function applies which instruction."""

from __future__ import annotations

from portside.builder.dockerfile import config_instructions, run_instruction, transfers
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError
from portside.builder.dockerfile.frontend import Conversion, Handler
from portside.builder.dockerfile.frontend_values import FrontendOptions, ImageResolver, Plan

_HANDLERS: dict[type[ins.Instruction], Handler] = {
    ins.Add: transfers.add,
    ins.Arg: config_instructions.arg,
    ins.Cmd: config_instructions.cmd,
    ins.Copy: transfers.copy,
    ins.Entrypoint: config_instructions.entrypoint,
    ins.Env: config_instructions.env,
    ins.Expose: config_instructions.expose,
    ins.HealthCheck: config_instructions.healthcheck,
    ins.Label: config_instructions.label,
    ins.Maintainer: config_instructions.maintainer,
    ins.OnBuild: config_instructions.onbuild,
    ins.Run: run_instruction.run,
    ins.Shell: config_instructions.shell,
    ins.StopSignal: config_instructions.stopsignal,
    ins.User: config_instructions.user,
    ins.Volume: config_instructions.volume,
    ins.Workdir: transfers.workdir,
}


async def convert(
    dockerfile: ins.Dockerfile, options: FrontendOptions, images: ImageResolver
) -> Plan:
    """The plan of a Dockerfile. DockerfileError; what the resolver raises."""
    try:
        return await Conversion(dockerfile, options, images, _HANDLERS).run()
    except DockerfileError as err:
        raise err.within(dockerfile.file, dockerfile.source) from None
