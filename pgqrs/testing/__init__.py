"""For those who test their apps: a private PostgreSQL, and handlers run on real messages.

With pytest the fixtures `pgqrs_dsn` and `pgqrs_server` are there by themselves (`pgqrs.testing.plugin`). Nothing here
is needed, or imported, by an app that runs.
"""

from pgqrs.testing.handling import Failure, Handled, handle
from pgqrs.testing.server import Server, postgres

__all__ = ["Failure", "Handled", "Server", "handle", "postgres"]
