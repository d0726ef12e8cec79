"""Writes to the cluster what was found: conditions, status, finalizers, Events. Only what differs is written.

A write that fails is logged and left to the next round, which finds the same difference again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgqrs_operator import verdicts
from pgqrs_operator.api import ApiError, ConflictError, NotFoundError
from pgqrs_operator.names import API_VERSION, FINALIZER, QUEUES, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.store import Resource, Store, Worker
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: Writes that are under way at a time.
_PARALLEL = 16
#: None is begun after so many seconds: meanwhile nothing is done for the messages of the dead.
_WRITING_SECONDS = 3.0
#: So many objects get an Event where one cause says the same of thousands.
MOST_EVENTS = 100
_PLURALS = {"PgqrsQueue": QUEUES, "PgqrsWorker": WORKERS}
_COMPONENT = "pgqrs-operator"


class Reporter:
    """The one writer of resources."""

    def __init__(self, kubernetes: Kubernetes, store: Store) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def in_time(
        self, writes: Iterable[Coroutine[Any, Any, object]], *, hurry: Callable[[], bool] = lambda: False
    ) -> bool:
        """Carry out writes side by side, as long as there is time; one that raises is logged, and the others go on.

        Args:
            writes: those that come too late are not even made, and must be found again by the next round.
            hurry: tells whether something came up that is to be done first.

        Returns:
            Whether the end of them was reached.
        """
        left = iter(writes)
        ends_at = asyncio.get_running_loop().time() + _WRITING_SECONDS

        async def carry_out() -> None:
            for write in left:
                await self._slotted(write)
                if asyncio.get_running_loop().time() > ends_at or hurry():
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(_PARALLEL):
                group.create_task(carry_out())
        late = next(left, None)
        if late is not None:
            late.close()
        return late is None

    async def _slotted(self, write: Coroutine[Any, Any, object]) -> None:
        try:
            # Others write as well, for other databases.
            async with self._slots:
                await write
        except Exception:  # noqa: BLE001 - one resource must not keep the others from being told
            _log.exception("a write failed; the next round tries it again")
        finally:
            # Where a cancellation kept it from beginning; else this does nothing.
            write.close()

    def _keep(self, body: Mapping[str, Any]) -> None:
        shelf = self._store.queues if body.get("kind") == "PgqrsQueue" else self._store.workers
        shelf.put(body)

    async def tell(
        self, resource: Resource, verdict: Verdict, details: Mapping[str, Any] | None = None, *, quietly: bool = False
    ) -> None:
        """Write the verdict, and what else the status is to say; see `telling`."""
        write = self.telling(resource, verdict, details, quietly=quietly)
        if write is not None:
            await write

    def telling(
        self, resource: Resource, verdict: Verdict, details: Mapping[str, Any] | None = None, *, quietly: bool = False
    ) -> Coroutine[Any, Any, None] | None:
        """Give the write that makes the status say the verdict, or None where it does, as mostly.

        Args:
            resource: the resource as it was judged.
            verdict: the judgement.
            details: other fields of the status; None leaves them as they are.
            quietly: make no Event.
        """
        old = resource.status
        told = old.get("conditions") or ()
        new = {
            **(old if details is None else details),
            "conditions": told,
            "observedGeneration": resource.generation,
        }
        if verdicts.says(old, verdict, resource.generation) and new == old:
            return None
        new["conditions"] = verdicts.conditions(
            verdict, generation=resource.generation, previous=told, now=datetime.now(UTC)
        )
        patch = verdicts.merge_patch(old, new)
        return self._tell(resource, verdict, patch, quietly=quietly) if patch else None

    async def _tell(self, resource: Resource, verdict: Verdict, patch: Mapping[str, Any], *, quietly: bool) -> None:
        plural = _PLURALS[resource.kind]
        try:
            self._keep(await self._kubernetes.patch_status(plural, *resource.key, patch))
        except NotFoundError:
            return
        except ApiError as error:
            _log.warning("status not written", extra={"resource": str(resource.key), "error": str(error)})
            return
        before = verdicts.condition(resource.status, "Ready")
        if (before.get("status"), before.get("reason")) != (("True" if verdict.ready else "False"), verdict.reason):
            _log.info(
                "verdict",
                extra={"kind": resource.kind, "resource": str(resource.key), "reason": verdict.reason,
                       "text": verdict.message},
            )  # fmt: skip
            # What passes by itself is no event, but for the one thing that somebody may have to look after; nor is it
            # one that something new is as it should be.
            worth = (
                verdict.kind != "waiting" and (before or not verdict.ready)
            ) or verdict.reason == "DatabaseUnavailable"
            if worth and not quietly:
                await self.event(resource, verdict.reason, verdict.message, warning=verdict.warns)

    async def hold(self, resource: Resource) -> None:
        """Put our finalizer on a resource."""
        await self._finalizers(resource, [*resource.finalizers, FINALIZER])

    async def let_go(self, resource: Resource) -> bool:
        """Take our finalizer off a resource, so that it can disappear; tell whether that was done just now."""
        if not resource.held:
            return False
        return await self._finalizers(resource, [name for name in resource.finalizers if name != FINALIZER])

    async def _finalizers(self, resource: Resource, finalizers: list[str]) -> bool:
        plural = _PLURALS[resource.kind]
        try:
            body = await self._kubernetes.patch_finalizers(
                plural, *resource.key, version=resource.version, finalizers=finalizers
            )
        except (NotFoundError, ConflictError):
            # Something newer is on its way to us.
            return False
        except ApiError as error:
            _log.warning("finalizer not written", extra={"resource": str(resource.key), "error": str(error)})
            return False
        self._keep(body)
        return True

    async def create_worker(self, pod: Pod) -> None:
        """Make the `PgqrsWorker` of an injected pod, owned by the pod."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "PgqrsWorker",
            "metadata": {
                "name": pod.key.name,
                "namespace": pod.key.namespace,
                "finalizers": [FINALIZER],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.key.name, "uid": pod.uid}],
            },
            "spec": {"queueRef": {"name": pod.queue}},
        }
        try:
            self._keep(await self._kubernetes.create(WORKERS, pod.key.namespace, body))
        except ConflictError:
            # Of a pod of the same name before this one, or somebody's own: it goes away, or stays and says what it is.
            _log.debug("a PgqrsWorker of this name is there", extra={"pod": str(pod.key)})
        except ApiError as error:
            _log.warning("PgqrsWorker not made", extra={"pod": str(pod.key), "error": str(error)})

    async def discard(self, worker: Worker) -> None:
        """Delete the `PgqrsWorker` of a pod that has ended for good, so that the list is that of the living."""
        try:
            await self._kubernetes.delete(WORKERS, *worker.key, uid=worker.uid)
        except (NotFoundError, ConflictError):
            return
        except ApiError as error:
            _log.warning("PgqrsWorker not deleted", extra={"resource": str(worker.key), "error": str(error)})

    async def report_without_sidecar(self, pod: Pod) -> None:
        """Tell that a labelled pod started without a sidecar; once, whoever told it before."""
        text = (
            "It has the label pgqrs.io/queue and no sidecar: no injector answered when it was created, or its "
            "namespace is left alone. Delete it, so that its controller makes a new one."
        )
        if await self._event(_pod(pod), "NotInjected", text, warning=True, name=f"{pod.uid}.not-injected"):
            _log.warning("labelled pod without a sidecar", extra={"pod": str(pod.key)})

    async def pod_event(self, pod: Pod, reason: str, message: str, *, warning: bool = False) -> None:
        """Make an Event about a pod."""
        await self._event(_pod(pod), reason, message, warning=warning)

    async def event(self, resource: Resource, reason: str, message: str, *, warning: bool = False) -> None:
        """Make an Event about a resource."""
        about = {
            "apiVersion": API_VERSION,
            "kind": resource.kind,
            "namespace": resource.key.namespace,
            "name": resource.key.name,
            "uid": resource.uid,
        }
        await self._event(about, reason, message, warning=warning)

    async def _event(
        self, about: Mapping[str, str], reason: str, message: str, *, warning: bool, name: str | None = None
    ) -> bool:
        """Make an Event; one with a name of its own is made once. Tell whether it was not there already."""
        now = datetime.now(UTC)
        called = {"generateName": f"{about['name'][:230]}."} if name is None else {"name": name}
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {**called, "namespace": about["namespace"]},
            "involvedObject": dict(about),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],
            "source": {"component": _COMPONENT},
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": 1,
        }
        try:
            await self._kubernetes.create_event(about["namespace"], body)
        except ConflictError:
            return False
        except ApiError as error:
            # A namespace that is being deleted takes none.
            _log.debug(
                "event not made", extra={"resource": f"{about['namespace']}/{about['name']}", "error": str(error)}
            )
        return True


def _pod(pod: Pod) -> dict[str, str]:
    namespace, name = pod.key
    return {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": pod.uid}
