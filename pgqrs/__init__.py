"""pgqrs: a job queue in PostgreSQL, for Kubernetes and elsewhere.

`Producer` sends, `Consumer` receives, `Admin` looks after the whole, `WorkerHandle` after one worker. In a pod that
carries the label `pgqrs.io/queue`, `pgqrs.Consumer()` needs no arguments.
"""

from pgqrs.admin import Admin, Messages, Queues, WorkerHandle, WorkerHealth, Workers, WorkerStats
from pgqrs.consumer import Consumer
from pgqrs.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailableError,
    InvalidStateTransitionError,
    PgqrsError,
    QueueAlreadyExistsError,
    QueueNotEmptyError,
    QueueNotFoundError,
    SchemaError,
    SessionError,
    ValidationError,
    WorkerAlreadyActiveError,
    WorkerHasPendingMessagesError,
    WorkerNotFoundError,
    WorkerNotReadyError,
    WorkerReplacedError,
)
from pgqrs.models import (
    DeadLetter,
    Message,
    PodIdentity,
    QueueCounts,
    QueueInfo,
    QueuePolicy,
    QueueRetention,
    WorkerInfo,
    WorkerStatus,
)
from pgqrs.payloads import Codec
from pgqrs.producer import Producer
from pgqrs.reaping import Reaped

__all__ = [
    "Admin",
    "Codec",
    "ConfigurationError",
    "Consumer",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DeadLetter",
    "InvalidStateTransitionError",
    "Message",
    "Messages",
    "PgqrsError",
    "PodIdentity",
    "Producer",
    "QueueAlreadyExistsError",
    "QueueCounts",
    "QueueInfo",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "QueuePolicy",
    "QueueRetention",
    "Queues",
    "Reaped",
    "SchemaError",
    "SessionError",
    "ValidationError",
    "WorkerAlreadyActiveError",
    "WorkerHandle",
    "WorkerHasPendingMessagesError",
    "WorkerHealth",
    "WorkerInfo",
    "WorkerNotFoundError",
    "WorkerNotReadyError",
    "WorkerReplacedError",
    "WorkerStats",
    "WorkerStatus",
    "Workers",
]
