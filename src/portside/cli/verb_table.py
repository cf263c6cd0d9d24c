"""The global flags, and the verbs, whose modules are imported when they are called."""

from __future__ import annotations

from portside.cli import commands
from portside.cli.verb import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.verb import Verb

GLOBAL = """
      --config string      Directory of the client's configuration (default "~/.docker")
  -c, --context string     Docker context that says where the engine is, in place of
                           DOCKER_HOST
  -D, --debug              Show where an unexpected error came from
  -H, --host list          Address of the engine (unix://PATH or tcp://HOST[:PORT])
  -l, --log-level string   Accepted and ignored (debug, info, warn, error, fatal); this
                           command writes no log
      --tls                Use TLS without verifying the engine's certificate
      --tlscacert string   The one authority to trust (default "~/.docker/ca.pem")
      --tlscert string     Certificate to show to the engine (default "~/.docker/cert.pem")
      --tlskey string      Key of the certificate (default "~/.docker/key.pem")
      --tlsverify          Use TLS and verify the engine's certificate
  -v, --version            Print the version and quit
"""


def load(name: str) -> Verb:
    """Import the module of a verb; the verb."""
    if name not in VERBS:
        __import__(f"portside.cli.{commands.MODULES[name]}")
    return VERBS[name]
