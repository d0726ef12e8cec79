"""What the cluster looked like last: resources and pods, kept small, in memory only.

Watches and lists put into it whatever they see, in any order; an older version never replaces a newer one. It decides
nothing, and it wakes whoever waits for a change.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from pgqrs_operator import pods
from pgqrs_operator.facts import Key
from pgqrs_operator.names import FINALIZER, PAUSED_ANNOTATION
from pgqrs_operator.resources.queue import InvalidSpecError, QueueSpec, check_name
from pgqrs_operator.resources.worker import WorkerSpec
from pgqrs_operator.secrets import SecretKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from pgqrs.models import QueuePolicy, QueueRetention
    from pgqrs_operator.api import Listing
    from pgqrs_operator.pods import Pod

#: How long it is known when something disappeared, in seconds.
_REMEMBER_SECONDS = 600.0
#: So many different specifications of queues are shared by those that say the same.
_SPECS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What both kinds have in common."""

    kind: str
    key: Key
    uid: str
    version: int
    generation: int
    created: str
    #: Since when it is being deleted.
    deleting: datetime | None
    finalizers: tuple[str, ...]
    #: Annotated to be left alone.
    frozen: bool
    #: Why its specification cannot be read.
    problem: str
    status: Mapping[str, Any]

    @property
    def age(self) -> tuple[str, str]:
        """Orders resources: the first one of two is the one that counts."""
        return self.created, self.uid

    @property
    def held(self) -> bool:
        """Whether it waits for us before it disappears."""
        return FINALIZER in self.finalizers


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Resource):
    """A `PgqrsQueue`."""

    spec: QueueSpec
    #: What its row has to say; None if the specification is not allowed, and for retention also if that is left alone.
    policy: QueuePolicy | None
    retention: QueueRetention | None
    #: Where its database's address is.
    secret: SecretKey

    @property
    def queue_name(self) -> str:
        """The queue's name in the database."""
        return self.spec.queue_name or self.key.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Resource):
    """A `PgqrsWorker`."""

    spec: WorkerSpec | None
    #: The `PgqrsQueue` that it belongs to.
    queue_key: Key | None
    #: The pod that owns it.
    pod_uid: str | None
    pod_name: str | None


def _common(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata", {})
    deleting = metadata.get("deletionTimestamp")
    return {
        "kind": body.get("kind", ""),
        "key": Key(metadata.get("namespace", ""), metadata.get("name", "")),
        "uid": metadata.get("uid", ""),
        "version": pods.version(metadata),
        "generation": metadata.get("generation", 0),
        "created": metadata.get("creationTimestamp", ""),
        "deleting": datetime.fromisoformat(deleting) if deleting else None,
        "finalizers": tuple(metadata.get("finalizers") or ()),
        "frozen": (metadata.get("annotations") or {}).get(PAUSED_ANNOTATION) == "true",
        "status": _shared(body.get("status") or {}),
    }


def _shared(value: Any) -> Any:
    """Give a value whose texts are shared with others that have the same: ten thousand statuses say nearly the same."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {sys.intern(key): _shared(item) for key, item in value.items()}
    return [_shared(item) for item in value] if isinstance(value, list) else value


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"spec.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def read_queue(body: Mapping[str, Any]) -> Queue:
    """Read a `PgqrsQueue`; one that the schema of this version refuses gets a problem and what can be read of it."""
    said = _said(json.dumps(body.get("spec") or {}))
    common = _common(body)
    key, reference = common["key"], said.spec.connection.secret_ref
    policy, retention, problem = said.policy, said.retention, said.problem
    if not problem:
        try:
            check_name(said.spec.queue_name or key.name)
        except InvalidSpecError as error:
            policy, retention, problem = None, None, str(error)
    return Queue(
        **common,
        spec=said.spec,
        policy=policy,
        retention=retention,
        problem=problem,
        secret=SecretKey(key.namespace, reference.name, reference.key),
    )


class _Said(NamedTuple):
    """A specification and what follows from it alone."""

    spec: QueueSpec
    policy: QueuePolicy | None
    retention: QueueRetention | None
    problem: str


@lru_cache(maxsize=_SPECS)
def _said(text: str) -> _Said:
    """Read a specification from its JSON; queues that say the same share what is read."""
    written = json.loads(text)
    try:
        spec = QueueSpec.model_validate(written)
    except ValidationError as error:
        return _Said(_readable(written), None, None, _explained(error))
    try:
        return _Said(spec, spec.policy(), spec.kept(), "")
    except InvalidSpecError as error:
        return _Said(spec, None, None, str(error))


def _readable(written: Mapping[str, Any]) -> QueueSpec:
    """Read what is allowed: neither its name nor its database become others because of another field."""
    fine = {}
    for field_name, value in written.items():
        with suppress(ValidationError):
            QueueSpec.model_validate({field_name: value})
            fine[field_name] = value
    return QueueSpec.model_validate(fine)


def read_worker(body: Mapping[str, Any]) -> Worker:
    """Read a `PgqrsWorker`."""
    spec, problem = None, ""
    try:
        spec = WorkerSpec.model_validate(body.get("spec") or {})
        spec.drain_limit()
    except (ValidationError, InvalidSpecError) as error:
        problem = _explained(error) if isinstance(error, ValidationError) else str(error)
    owners = body.get("metadata", {}).get("ownerReferences") or ()
    pod = next((o for o in owners if o.get("kind") == "Pod" and o.get("apiVersion") == "v1"), None)
    common = _common(body)
    return Worker(
        **common,
        spec=spec,
        problem=problem,
        queue_key=Key(common["key"].namespace, spec.queue_ref.name) if spec else None,
        pod_uid=pod["uid"] if pod else None,
        pod_name=pod["name"] if pod else None,
    )


class _Item(Protocol):
    @property
    def key(self) -> Key: ...
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=_Item)


@dataclass(slots=True)
class Shelf(Generic[T]):
    """All objects of one kind by their uid."""

    _read: Callable[[Mapping[str, Any]], T]
    _changed: asyncio.Event
    _items: dict[str, T] = field(default_factory=dict)
    #: Is another number whenever other objects are there.
    membership: int = 0
    #: What was seen to disappear, so that a list that was read before cannot bring it back.
    _gone: dict[str, int] = field(default_factory=dict)
    #: When that was, by the monotonic clock, and how it looked last, for as long as somebody may ask.
    _vanished: dict[str, tuple[float, T]] = field(default_factory=dict)

    def put(self, body: Mapping[str, Any]) -> None:
        """Take what a watch or a patch shows, unless something newer is there."""
        metadata = body.get("metadata", {})
        uid, at = metadata.get("uid", ""), pods.version(metadata)
        old = self._items.get(uid)
        if self._gone.get(uid, -1) >= at or (old and old.version >= at):
            # Most of a list is known; reading it is what takes time.
            return
        self._items[uid] = self._read(body)
        if old is None:
            self.membership += 1
        self._changed.set()

    def drop(self, uid: str, version: int) -> None:
        """Forget an object that is gone."""
        self._gone[uid] = version
        item = self._items.pop(uid, None)
        if item is not None:
            self._vanished[uid] = time.monotonic(), item
            self.membership += 1
            self._changed.set()

    async def replace(self, pages: AsyncIterator[Listing]) -> None:
        """Take a whole list; what is older and not in it is gone.

        Raises:
            ApiError: not all of it could be read, so nothing counts as gone.
        """
        seen: set[str] = set()
        version = 0
        async for page in pages:
            version = page.version
            for body in page.items:
                seen.add(body.get("metadata", {}).get("uid", ""))
                self.put(body)
        for uid, item in list(self._items.items()):
            if uid not in seen and item.version <= version:
                self.drop(uid, version)
        self._gone = {uid: at for uid, at in self._gone.items() if at >= version}
        oldest = time.monotonic() - _REMEMBER_SECONDS
        self._vanished = {uid: last for uid, last in self._vanished.items() if last[0] > oldest}

    def vanished(self, uid: str) -> float | None:
        """Give when an object was seen to disappear, by the monotonic clock, if that was within ten minutes."""
        seen = self._vanished.get(uid)
        return None if seen is None else seen[0]

    def last(self, uid: str) -> T | None:
        """Give an object that is there, or how one looked last that disappeared within ten minutes."""
        seen = self._vanished.get(uid)
        return self._items.get(uid) or (None if seen is None else seen[1])

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def get(self, uid: str) -> T | None:
        """Find one by its uid."""
        return self._items.get(uid)


class Store:
    """All that is known of the cluster."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.queues: Shelf[Queue] = Shelf(read_queue, self.changed)
        self.workers: Shelf[Worker] = Shelf(read_worker, self.changed)
        self.pods: Shelf[Pod] = Shelf(pods.read, self.changed)
