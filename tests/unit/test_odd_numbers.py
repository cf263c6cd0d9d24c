"""Digits that ``int`` does not read, and numbers that are too long for it, are refused with a
clear error wherever users write numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from portside.containers.log_config import check_log_config
from portside.images.config_changes import health_options
from portside.model.container import LogConfig
from portside.model.errors import InvalidParameter
from portside.networks.portmapper import parse_range
from portside.runtime.scheduling import cpus

READERS: list[Callable[[str], object]] = [
    parse_range,
    lambda text: parse_range(f"1-{text}"),
    cpus,
    lambda text: cpus(f"0-{text}"),
    lambda text: check_log_config(LogConfig(type="json-file", config={"max-file": text})),
    lambda text: health_options((), {"retries": text}),
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["¹", "1²", "9" * 5000])
def test_odd_numbers_are_refused(reader: Callable[[str], object], text: str) -> None:
    with pytest.raises(InvalidParameter):
        reader(text)
