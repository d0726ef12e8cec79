"""pgqrs: a job queue in PostgreSQL, for Kubernetes and elsewhere.

`Producer` sends, `Consumer` receives, `Admin` looks after the whole, `WorkerHandle` after one worker. In a pod that
carries the label `pgqrs.io/queue`, `pgqrs.Consumer()` needs no arguments.
"""

from pgqrs.admin import Admin
from pgqrs.backoff import Backoff
from pgqrs.consumer import Consumer
from pgqrs.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailableError,
    DeadLetter,
    InvalidStateTransitionError,
    PgqrsError,
    QueueAlreadyExistsError,
    QueueNotEmptyError,
    QueueNotFoundError,
    Retry,
    SchemaError,
    SessionError,
    ValidationError,
    Verdict,
    WorkerAlreadyActiveError,
    WorkerHasPendingMessagesError,
    WorkerNotFoundError,
    WorkerNotReadyError,
    WorkerReplacedError,
)
from pgqrs.handle import WorkerHandle
from pgqrs.handlers import Middleware
from pgqrs.models import (
    DeadLetterInfo,
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
from pgqrs.tables import Messages, Queues, WorkerHealth, Workers, WorkerStats

__all__ = [
    "Admin",
    "Backoff",
    "Codec",
    "ConfigurationError",
    "Consumer",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DeadLetter",
    "DeadLetterInfo",
    "InvalidStateTransitionError",
    "Message",
    "Messages",
    "Middleware",
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
    "Retry",
    "SchemaError",
    "SessionError",
    "ValidationError",
    "Verdict",
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
