"""The history of builds keeps its newest records, and leaves no blob of the others."""

from __future__ import annotations

from pathlib import Path

from portside.builder.build_history import KEPT, BuildHistory
from portside.store import gc
from portside.store.store import Store


async def test_surplus_records_go_with_their_blobs(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    try:
        history = BuildHistory(store)
        for number in range(KEPT + 5):
            record = history.begin(f"build{number}", "dockerfile.v0", {}, ())
            log = b"the same" if number < 3 else b"log %d" % number
            history.end(record, log=log, log_type="text/plain", provenance={})
        assert len(history.all()) == KEPT
        assert gc.unreachable(store) == ([], [])
        newest = history.all()[0]
        assert history.log(newest) == b"log %d" % (KEPT + 4)
        history.delete([newest.ref])
        assert gc.unreachable(store) == ([], [])
    finally:
        await store.close()
