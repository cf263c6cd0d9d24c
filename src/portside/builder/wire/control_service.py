"""``moby.buildkit.v1.Control``: builds, their progress, the cache, workers, history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder.build_history import STATUS_PB, BuildRecord, Steps
from portside.builder.service import BuildService, until_of
from portside.builder.solver.entitlements import known_devices
from portside.builder.wire import exports, history_messages
from portside.builder.wire.attested_results import for_history
from portside.builder.wire.bridge_caller import Caller, FrontendSolver
from portside.builder.wire.build_job import BuildJob, Result
from portside.builder.wire.client_session import Sessions, relay
from portside.builder.wire.grpc_transport import Service, paired_transport
from portside.builder.wire.proto import control_pb2 as pb
from portside.builder.wire.proto import session_pb2, worker_pb2
from portside.builder.wire.wire_errors import status_of
from portside.builder.wire.worker_record import version, worker_record
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError

if TYPE_CHECKING:
    from portside.builder.solver.cache_records import CacheRecord

BUILD_ID = "buildkit-controlapi-buildid"
"""The metadata of a call that names its build."""
ARRIVAL = 3.0
"""Seconds in which the build that a call names must have come."""


class Jobs:
    """The builds that are running, by the client's own ID."""

    def __init__(self) -> None:
        self._jobs: dict[str, BuildJob] = {}
        self._callers: dict[str, Caller] = {}
        self._ended: dict[str, BuildJob] = {}
        self._arrived = asyncio.Event()

    def add(self, job: BuildJob) -> Caller:
        """InvalidParameter, Conflict."""
        if not job.ref:
            raise InvalidParameter("the build has no ID")
        if job.ref in self._jobs:
            raise Conflict(f"job ID {job.ref} exists")
        self._jobs[job.ref] = job
        found = Caller(job=job, returned=job.returned, inputs=job.frontend_inputs)
        self._callers[job.ref] = found
        self._arrived.set()
        self._arrived = asyncio.Event()
        return found

    def remove(self, job: BuildJob) -> None:
        """Note that a build has ended. A client that asks for progress at the same time as for the
        build may come after a quick build: the job is kept for a moment."""
        if self._jobs.get(job.ref) is job:
            del self._jobs[job.ref], self._callers[job.ref]
            self._ended[job.ref] = job
            asyncio.get_running_loop().call_later(ARRIVAL, self._ended.pop, job.ref, None)

    async def get(self, ref: str, *, ended: bool = False) -> BuildJob:
        """A build, which may be about to come; with ``ended`` one that just ended, too."""
        if ended and ref in self._ended and ref not in self._jobs:
            return self._ended[ref]
        try:
            async with asyncio.timeout(ARRIVAL):
                while ref not in self._jobs:
                    await self._arrived.wait()
        except TimeoutError:
            raise NotFound(f"no such job {ref[:80]}") from None
        return self._jobs[ref]

    async def caller(self, metadata: Any) -> Caller:
        """The client of the build that a call's metadata names. InvalidParameter, NotFound."""
        ref = metadata.get(BUILD_ID, "")
        if not ref:
            raise InvalidParameter("no buildid found in context")
        await self.get(ref)
        return self._callers[ref]


class ControlService:
    def __init__(
        self, builds: BuildService, sessions: Sessions, jobs: Jobs, labels: dict[str, str],
        frontends: FrontendSolver,
    ) -> None:  # fmt: skip
        self._builds, self._sessions, self._jobs = builds, sessions, jobs
        self._labels, self._frontends = labels, frontends
        self._history = builds.history

    def service(self) -> Service:
        found = Service("moby.buildkit.v1.Control")
        found.unary("Solve", self.solve, pb.SolveRequest, pb.SolveResponse)
        found.unary("ListWorkers", self.workers, pb.ListWorkersRequest, pb.ListWorkersResponse)
        found.unary("Info", self.info, pb.InfoRequest, pb.InfoResponse)
        found.unary("DiskUsage", self.usage, pb.DiskUsageRequest, pb.DiskUsageResponse)
        found.unary(
            "UpdateBuildHistory", self.update_history,
            pb.UpdateBuildHistoryRequest, pb.UpdateBuildHistoryResponse,
        )  # fmt: skip
        found.stream("Status", self.status, pb.StatusRequest, pb.StatusResponse)
        found.stream("Prune", self.prune, pb.PruneRequest, pb.UsageRecord)
        found.stream(
            "ListenBuildHistory", self.history, pb.BuildHistoryRequest, pb.BuildHistoryEvent
        )
        found.stream(
            "Session", self.session, session_pb2.BytesMessage, session_pb2.BytesMessage, both=True
        )
        return found

    # -- building ------------------------------------------------------------------------

    async def solve(self, request: Any, _: Any) -> Any:
        session = None
        if request.Session:
            session = await self._sessions.get(request.Session)
        job = BuildJob(self._builds, request, session)
        caller = self._jobs.add(job)
        task = asyncio.current_task()
        assert task is not None
        forget = self._builds.register(job.ref, task)
        record = None
        if not request.Internal:
            outputs = [(output.type, output.attrs) for output in _outputs(request)]
            record = self._history.begin(job.ref, request.Frontend, request.FrontendAttrs, outputs)
        error: BaseException | None = None
        found: dict[str, str] = {}
        try:
            found = await self._built(caller, request)
        except BaseException as err:
            error = err
            raise
        finally:
            forget()
            self._jobs.remove(job)
            job.progress.end()
            if record is not None:
                self._recorded(job, record, found, error)
        return pb.SolveResponse(ExporterResponse=found)

    def _recorded(
        self, job: BuildJob, record: BuildRecord, found: dict[str, str],
        error: BaseException | None,
    ) -> None:  # fmt: skip
        failed = status_of(error) if error is not None else None
        total, completed, cached = job.progress.counts
        record = msgspec.structs.replace(
            record, response=found,
            steps=Steps(total, completed, cached, job.progress.warnings),
            results={"": tuple(job.exported)} if job.exported else {},
            error=failed.message if failed is not None else "",
            error_code=failed.code if failed is not None else 0,
            error_status=failed.SerializeToString() if failed is not None else b"",
        )  # fmt: skip
        log = history_messages.packed(job.progress.last_messages())
        self._history.end(record, log=log, log_type=STATUS_PB, provenance=job.provenance)

    async def _built(self, caller: Caller, request: Any) -> dict[str, str]:
        job = caller.job
        async with job:
            job.stack.push_async_callback(caller.containers.close)
            try:
                result = await self._result(caller, request)
                await asyncio.gather(*(job.tree(ref) for ref in result.refs.values()))
                if not request.Internal:
                    job.provenance = for_history(job, result)
                return await exports.export(job, result, _outputs(request))
            except PortsideError as err:
                raise job.failure(err) from err

    async def _result(self, caller: Caller, request: Any) -> Result:
        job = caller.job
        if request.Frontend:
            attrs, inputs = dict(request.FrontendAttrs), caller.inputs
            return await self._frontends(caller, request.Frontend, attrs, inputs)
        if request.HasField("Definition") and request.Definition.ListFields():
            return await job.solved_definition(request.Definition)
        return await caller.returned

    async def status(self, stream: Any) -> None:
        request = await stream.recv_message()
        record = self._history.find(request.Ref)
        if record is not None and not record.is_active:
            await stream.send_initial_metadata()
            kind = record.log.media_type if record.log is not None else ""
            for message in history_messages.messages_of(self._history.log(record), kind):
                await stream.send_message(message)
            return
        job = await self._jobs.get(request.Ref, ended=True)
        await stream.send_initial_metadata()
        async for message in job.progress.messages():
            await stream.send_message(message)

    async def session(self, stream: Any) -> None:
        """A session inside a call: the client's end of the connection is the stream."""
        headers = {str(key): str(value) for key, value in stream.metadata.items()}
        transport, peer = await paired_transport()
        serving = asyncio.create_task(self._sessions.serve(transport, headers))
        try:
            await stream.send_initial_metadata()
            with peer:
                await relay(peer, stream)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    # -- about the engine ----------------------------------------------------------------

    async def workers(self, _: Any, __: Any) -> Any:
        record = worker_record(
            self._labels, self._builds.policy, known_devices(self._builds.cdi_spec_dirs)
        )
        return pb.ListWorkersResponse(record=[record])

    async def info(self, _: Any, __: Any) -> Any:
        return pb.InfoResponse(buildkitVersion=worker_pb2.BuildkitVersion(**version()))

    # -- the cache -----------------------------------------------------------------------

    async def usage(self, request: Any, _: Any) -> Any:
        since = until_of(request.ageLimit / 10**9) if request.ageLimit else 0
        records = [
            record for record in await self._builds.usage()
            if (not since or record.used <= since) and _matches(record, request.filter)
        ]  # fmt: skip
        return pb.DiskUsageResponse(record=[self._record(record) for record in records])

    async def prune(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_initial_metadata()
        records = await self._builds.usage()
        known = {record.id: self._record(record) for record in records}
        ids = tuple(record.id for record in records if _matches(record, request.filter))
        if request.filter and not ids:
            return
        gone, _ = await self._builds.prune(
            all=request.all,
            keep=max(request.reservedSpace, request.maxUsedSpace),
            until=until_of(request.keepDuration / 10**9) if request.keepDuration else 0,
            ids=ids if request.filter else (),
        )
        for identifier in gone:
            if identifier in known:
                await stream.send_message(known[identifier])

    def _record(self, record: CacheRecord) -> Any:
        found = pb.UsageRecord(
            ID=record.id,
            Mutable=record.is_mutable,
            InUse=self._builds.cache.is_busy(record.id),
            Size=record.size,
            UsageCount=record.count,
            Description=record.description,
            RecordType=record.type,
            Shared=self._builds.cache.is_shared(record),
            Parents=record.parents,
        )
        found.CreatedAt.FromMilliseconds(int(record.created * 1000))
        found.LastUsedAt.FromMilliseconds(int(record.used * 1000))
        return found

    # -- history -------------------------------------------------------------------------

    async def history(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_initial_metadata()
        events = self._history.events(
            request.Ref, active_only=request.ActiveOnly, follow=not request.EarlyExit,
            limit=request.Limit,
        )  # fmt: skip
        async for event in events:
            await stream.send_message(history_messages.event_message(event))

    async def update_history(self, request: Any, _: Any) -> Any:
        if request.Delete:
            self._history.delete([request.Ref])
        elif not request.Finalize:
            self._history.pin(request.Ref, request.Pinned)
        return pb.UpdateBuildHistoryResponse()


def _outputs(request: Any) -> list[exports.Output]:
    wanted = [(item.Type, dict(item.Attrs)) for item in request.Exporters]
    if not wanted and request.ExporterDeprecated:
        wanted = [(request.ExporterDeprecated, dict(request.ExporterAttrsDeprecated))]
    return [exports.Output(number, *item) for number, item in enumerate(wanted)]


def _matches(record: CacheRecord, filters: Any) -> bool:
    """containerd's filters, as far as clients send them: fields and values, all of one line,
    any line."""
    lines = [line for line in filters if line]
    if not lines:
        return True
    fields = {
        "id": record.id, "type": record.type, "description": record.description,
        "mutable": str(record.is_mutable).lower(),
    }  # fmt: skip

    def one(part: str) -> bool:
        for sign in ("~=", "!=", "=="):
            name, found, value = part.partition(sign)
            if found:
                have = fields.get(name.strip().lower(), "")
                value = value.strip().strip('"')
                if sign == "~=":
                    return value in have
                return (have == value) == (sign == "==")
        return bool(fields.get(part.strip().lower()))

    return any(all(one(part) for part in line.split(",")) for line in lines)
