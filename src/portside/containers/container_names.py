"""Container names: what is allowed, and names for containers that were given none."""

from __future__ import annotations

import random
import re

from portside.model.errors import InvalidParameter

_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(f"/?{_ALLOWED}+", re.ASCII)

_MANNERS = (
    "able airy amber ample brisk bright calm candid clear clever cosy crisp dapper daring deft "
    "eager early easy even fair fleet fond frank fresh gentle glad golden grand green happy hardy "
    "honest humble jolly keen kind lively loyal lucid lucky mellow merry mild modest neat nimble "
    "noble patient plucky polite proud quick quiet rapid ready royal rustic serene sharp silent "
    "sleek smart snug solid sound spry steady still stout sunny sure swift tender tidy trim true "
    "upbeat vivid warm wary wise witty young zesty"
).split()
_VESSELS = (
    "anchor barge beacon bollard bosun bowsprit brig buoy cabin capstan caravel clipper compass "
    "coracle corvette cutter davit dinghy dock dory felucca ferry fender frigate galleon galley "
    "gangway halyard harbour hawser helm hold hull isle jetty junk kayak keel ketch lagoon lantern "
    "lateen lighter lugger mast mizzen mole moor outrigger packet pier pilot pinnace port prow "
    "punt quay raft reef rigging rudder sail schooner sextant skiff skipper sloop spar stern "
    "tender tide tiller trawler tug wharf wherry winch yacht yawl"
).split()


def check(name: str) -> str:
    """The name without its slash; raises InvalidParameter with Docker's text."""
    if not _NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({name}), only {_ALLOWED} are allowed")
    return name.removeprefix("/")


def generate(attempt: int = 0) -> str:
    """A name such as ``calm_harbour``; later attempts carry a digit."""
    name = f"{random.choice(_MANNERS)}_{random.choice(_VESSELS)}"
    return f"{name}{random.randrange(10 ** min(attempt, 9))}" if attempt else name
