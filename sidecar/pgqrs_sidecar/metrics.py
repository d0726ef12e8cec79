"""The numbers of one sidecar, in the text format that Prometheus reads.

They are shown to whoever asks, so they are numbers only: no name of a queue, a pod or a database. Written by hand,
because the usual library costs every pod more memory than all that is counted here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgqrs.models import WorkerStatus
from pgqrs_sidecar.sessions import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgqrs_sidecar.drain import Drain
    from pgqrs_sidecar.heartbeats import Heartbeats
    from pgqrs_sidecar.outage import Outage
    from pgqrs_sidecar.rows import PodRows
    from pgqrs_sidecar.sessions import SessionServer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LIVE = [status for status in WorkerStatus if status is not WorkerStatus.STOPPED]
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric with all its samples."""

    name: str
    kind: str
    text: str
    samples: Mapping[str, float]
    #: What the keys of the samples are; empty for a metric with a single sample.
    label: str = ""

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        for value, number in self.samples.items():
            labels = f'{{{self.label}="{_escaped(value)}"}}' if self.label else ""
            yield f"{self.name}{labels} {number!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _gauge(name: str, text: str, number: float | None) -> _Family:
    """A single number; None is shown as no sample."""
    return _Family(f"pgqrs_sidecar_{name}", "gauge", text, {} if number is None else {"": number})


def _counter(name: str, text: str, number: float) -> _Family:
    return _Family(f"pgqrs_sidecar_{name}_total", "counter", text, {"": number})


def _counters(name: str, text: str, label: str, numbers: Mapping[str, float]) -> _Family:
    return _Family(f"pgqrs_sidecar_{name}_total", "counter", text, numbers, label)


class Metrics:
    """Reads the parts of the sidecar when somebody asks."""

    def __init__(
        self, *, rows: PodRows, sessions: SessionServer, heartbeats: Heartbeats, outage: Outage, drain: Drain
    ) -> None:
        self._rows = rows
        self._sessions = sessions
        self._heartbeats = heartbeats
        self._outage = outage
        self._drain = drain

    def text(self) -> str:
        """Give all of it."""
        return "".join(f"{line}\n" for family in self._families() for line in family.lines())

    def _families(self) -> Iterator[_Family]:
        yield from self._of_sessions()
        yield from self._of_rows()
        yield from self._of_heartbeats()
        yield from self._of_drain()
        yield from self._of_process()

    def _of_sessions(self) -> Iterator[_Family]:
        sessions = self._sessions
        yield _gauge("sessions", "Processes that have a session now.", len(sessions.sessions))
        yield _gauge(
            "sessions_silent", "Processes that do not answer, so that their heartbeats pause.", len(sessions.silent)
        )
        yield _counter("sessions_opened", "Sessions that were opened.", sessions.opened)
        ended = {ending: sessions.ended[ending] for ending in ENDINGS}
        yield _counters("sessions_ended", "Sessions that ended, by the way in which they did.", "reason", ended)
        yield _counters("sessions_refused", "Sessions that were refused, by code.", "code", sessions.refused)

    def _of_rows(self) -> Iterator[_Family]:
        rows = self._rows
        states = Counter(info.status for info in rows.seen.values())
        workers = {status.value: states[status] for status in _LIVE}
        yield _gauge("registered", "Whether the pod has had a row in the database.", int(rows.registered.is_set()))
        text = "Rows of this pod, by state, as the database last showed them."
        yield _Family("pgqrs_sidecar_workers", "gauge", text, workers, "state")
        text = "Messages that this pod's rows hold, as the database last showed them."
        yield _gauge("messages_leased", text, rows.leased)
        text = "Messages that became free when their worker was stopped, by why it was."
        yield _counters("messages_released", text, "reason", rows.released)

    def _of_heartbeats(self) -> Iterator[_Family]:
        beats, up = self._heartbeats, self._outage.up
        age = None if beats.last is None else asyncio.get_running_loop().time() - beats.last
        yield _counter("heartbeats_sent", "Heartbeats that the database took, one for all rows.", beats.sent)
        yield _counter("heartbeats_failed", "Heartbeats that it did not take.", beats.failed)
        yield _gauge("heartbeat_age_seconds", "Time since the last heartbeat that the database took.", age)
        yield _gauge("database_up", "Whether the last statement was answered.", None if up is None else int(up))
        failing = self._outage.seconds or 0.0
        yield _gauge("database_failing_seconds", "For how long the database has been failing.", failing)

    def _of_drain(self) -> Iterator[_Family]:
        drain = self._drain
        yield _gauge("drain_begun", "Whether the drain of the pod has begun.", int(drain.begun))
        yield _gauge("drain_done", "Whether it is over.", int(drain.done))
        yield _gauge("drain_duration_seconds", "How long it has taken until now, or took in all.", drain.seconds)
        yield _counter("container_drains", "Drains of single containers that were asked for.", drain.containers)

    @staticmethod
    def _of_process() -> Iterator[_Family]:
        yield _counter("process_cpu_seconds", "Processor time of the sidecar.", time.process_time())
        resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield _gauge("process_resident_memory_bytes", "Resident memory of the sidecar.", resident)
