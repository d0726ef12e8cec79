"""Four group roles with no more rights than their job needs; a login is given one or two of them.

| role | may |
|---|---|
| owner | everything in the schema, migrations too: the operator, administrators |
| producer | register and beat as a worker, send messages; read neither payloads nor archive anything |
| consumer | register and beat as a worker, lease, finish, release and delete messages; send none |
| observer | count and list queues, workers and messages; read no payload |

None of the last three may change tables, and none of the four can log in. An app that sends and receives is given
producer and consumer, and so is an unmodified upstream client, which reads back what it sends. PostgreSQL 14 and older
lets everybody create tables in `public`; there an administrator says `REVOKE CREATE ON SCHEMA public FROM PUBLIC`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgqrs import errors, names, statements

if TYPE_CHECKING:
    from pgqrs.database import Database, Transaction

DEFAULT_PREFIX = "pgqrs_"
KINDS = ("owner", "producer", "consumer", "observer")
#: PostgreSQL cuts names at 63 characters, so the prefix leaves room for the longest kind.
_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,54}")


def check_prefix(prefix: str) -> str:
    """Give the prefix back if role names may begin with it.

    Raises:
        ValidationError: it is something else than a lower-case identifier of up to 55 characters.
    """
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix) or prefix.startswith("pg_"):
        message = (
            f"The prefix of roles {names.shown(prefix)} is not allowed; it starts with a small letter or _ but not "
            f"with pg_, goes on with small letters, digits or _, and has at most 55 characters, such as "
            f"{DEFAULT_PREFIX!r}."
        )
        raise errors.ValidationError(message)
    return prefix


def role_names(prefix: str = DEFAULT_PREFIX) -> dict[str, str]:
    """Give the names of the four roles by their kind."""
    return {kind: prefix + kind for kind in KINDS}


async def grant(db: Database, transaction: Transaction, prefix: str | None) -> None:
    """Make the roles of this prefix and give them exactly their rights; part of the installation's transaction.

    Args:
        db: where.
        transaction: the installation's.
        prefix: a checked prefix; None grants anew what an earlier installation was asked for, if anything.

    Raises:
        ValidationError: the schema has roles of another prefix, or a role of one of these names can log in.
    """
    recorded = None
    if await transaction.fetch_value("roles.record_exists", db.schema):
        recorded = await transaction.fetch_value("roles.recorded")
    chosen = prefix or recorded
    if chosen is None:
        return
    if recorded not in (None, chosen):
        message = (
            f"The roles of schema {db.schema} of {db.where} begin with {recorded!r}; "
            f"they cannot also begin with {chosen!r}."
        )
        raise errors.ValidationError(message)
    roles = role_names(chosen)
    await _make(transaction, roles)
    await transaction.fetch("roles.create_record")
    await transaction.fetch("roles.record", chosen)
    if not await transaction.fetch_value("roles.is_member", roles["owner"]):
        await _execute(transaction, "roles.join", roles)
    await _execute(transaction, "roles.grant", roles)
    if await transaction.fetch_value("roles.not_owned", db.schema, roles["owner"]):
        await _execute(transaction, "roles.give_to_owner", roles)


async def _make(transaction: Transaction, roles: dict[str, str]) -> None:
    rows = await transaction.fetch("roles.existing", list(roles.values()))
    existing = {row["name"]: row["is_group"] for row in rows}
    for name in roles.values():
        if name not in existing:
            await _execute(transaction, "roles.create", {"role": name})
        elif not existing[name]:
            message = f"The role {name} can log in or is a superuser, so it is no group of ours; choose another prefix."
            raise errors.ValidationError(message)


async def _execute(transaction: Transaction, name: str, identifiers: dict[str, str]) -> None:
    await transaction.execute(statements.render(statements.block(name), transaction.schema, identifiers))
