"""Installs the tables, adopts those that upstream pgqrs 0.15.3 installed, and refuses what it does not know.

Everything happens in one transaction under upstream's own migration lock: an installer that is killed leaves nothing
behind, and two at once, of whichever kind, run one after the other.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

from pgqrs import errors, statements

if TYPE_CHECKING:
    from pgqrs.database import Database, Transaction

_UPSTREAM_MIGRATION = "upstream_0_15_3"
#: Ours, in order. A text that was released is never changed; a change is a new file.
_MIGRATIONS = ((1, "0001_pre_kubernetes"),)

#: Upstream 0.15.3's migrations: version, description, SHA-384 of its file (`docs/design/schema.md`).
_UPSTREAM_CHECKSUMS = (
    (
        1,
        "create worker status enum",
        "d2c9fdceef8a50d25d477ad3591c44d22523e3796c5d89f2185cdbbad5b744b50f4d33835e8282787566b2e72a92ed30",
    ),
    (
        2,
        "create queue table",
        "0e249be0fa88e93f2389598a7846b14d2222e920125411f9c5b2a45ee7e4e502d0f66cec66ebf072519e63b9633c3839",
    ),
    (
        3,
        "create worker table",
        "4a8661ec5994583653419ede0358f6ebdd1afc7007badc2df474cb61453a0c06c95c787770cf74902ae350991cc5eb59",
    ),
    (
        4,
        "create messages table",
        "a6fb1fcb94e74fffd5d4a4a8167e6a79c494a169659fa29fb3d5a4ccdef5905b7387372875471eb7d9b6c23b19687fed",
    ),
    (
        6,
        "create workflow tables",
        "6df4919f0208ce174be4aef9e8752615426a1346b1f641a4de5389254b68d92da14a27c58e61aa81207d7263c61b9723",
    ),
)
_UPSTREAM_LOCK_FACTOR = 0x3D32AD9E
_CORE_TABLES = {"pgqrs_queues", "pgqrs_workers", "pgqrs_messages"}
_HISTORY = "pgqrs_schema_migrations"


def lock_key(database_name: str) -> int:
    """Upstream's advisory lock for migrations: a factor times the CRC-32 of the database's name."""
    return _UPSTREAM_LOCK_FACTOR * zlib.crc32(database_name.encode())


def _checksum(file: str) -> str:
    return hashlib.sha256(statements.migration_source(file).encode()).hexdigest()


async def install(db: Database) -> None:
    """Bring the schema to the newest version; does nothing where it is there already.

    Raises:
        SchemaError: the tables are of an older generation of upstream, were changed, or come from a newer release.
        DatabaseUnavailableError: PostgreSQL cannot be reached.
        DatabaseError: PostgreSQL refuses, for lack of rights mostly.
    """
    async with db.transaction() as transaction:
        name = await transaction.connection.fetchval("SELECT current_database()")
        await transaction.fetch_value("schema.lock", lock_key(name))
        found = await _found(db, transaction)
        if not found & _CORE_TABLES:
            await transaction.execute(statements.migration(_UPSTREAM_MIGRATION, db.schema))
            for version, description, checksum in _UPSTREAM_CHECKSUMS:
                await transaction.fetch("schema.record_upstream", version, description, bytes.fromhex(checksum))
        else:
            _check_generation(db, found)
        await transaction.fetch("schema.create_history")
        done = {row["version"]: row for row in await transaction.fetch("schema.history")}
        _check_history(db, {version: row["checksum"] for version, row in done.items()})
        for version, file in _MIGRATIONS:
            if version not in done:
                await transaction.execute(statements.migration(file, db.schema))
                await transaction.fetch("schema.record", version, file, _checksum(file))


async def verify(db: Database) -> None:
    """Check that the schema is the one that this version needs, without changing anything.

    Raises:
        SchemaError: it is not; the message says what is missing.
        DatabaseUnavailableError: PostgreSQL cannot be reached.
    """
    async with db.transaction() as transaction:
        found = await _found(db, transaction)
        if not found & _CORE_TABLES:
            message = f"There are no pgqrs tables in schema {db.schema} of {db.where}; run `Admin.install()`."
            raise errors.SchemaError(message)
        _check_generation(db, found)
        history = await transaction.fetch("schema.history") if _HISTORY in found else []
        done = {row["version"]: row["checksum"] for row in history}
        _check_history(db, done)
        missing = [file for version, file in _MIGRATIONS if version not in done]
        if missing:
            message = (
                f"The tables in schema {db.schema} of {db.where} lack {', '.join(missing)}; run `Admin.install()`."
            )
            raise errors.SchemaError(message)


async def _found(db: Database, transaction: Transaction) -> set[str]:
    if not await transaction.fetch_value("schema.schema_exists", db.schema):
        message = f"There is no schema {db.schema} in {db.where}; create it first: CREATE SCHEMA {db.schema};"
        raise errors.SchemaError(message)
    return {row["name"] for row in await transaction.fetch("schema.tables", db.schema)}


def _check_generation(db: Database, found: set[str]) -> None:
    """Refuse the tables of upstream's older generations, which its releases cannot upgrade either."""
    where = f"in schema {db.schema} of {db.where}"
    if "pgqrs_archive" in found:
        generation = "upstream pgqrs 0.13.0 or older (generation A, with a table pgqrs_archive)"
    elif "pgqrs_workers.name" not in found and "pgqrs_workers" in found:
        generation = "upstream pgqrs 0.14.0 to 0.15.1 (generation B, workers without a column name)"
    elif not found >= _CORE_TABLES:
        missing = ", ".join(sorted(_CORE_TABLES - found))
        message = f"The tables {where} are incomplete: {missing} missing. Restore them or use another schema."
        raise errors.SchemaError(message)
    else:
        return
    message = f"The tables {where} are those of {generation}; this version needs those of 0.15.3. Use another schema."
    raise errors.SchemaError(message)


def _check_history(db: Database, done: dict[int, str]) -> None:
    where = f"schema {db.schema} of {db.where}"
    known = dict(_MIGRATIONS)
    for version, checksum in done.items():
        if version not in known:
            message = f"{where} was installed by a newer release (migration {version}); upgrade this one."
            raise errors.SchemaError(message)
        if checksum != _checksum(known[version]):
            message = f"Migration {known[version]} of {where} has another checksum; it was not installed by a release."
            raise errors.SchemaError(message)
