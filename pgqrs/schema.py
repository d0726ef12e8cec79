"""Installs the tables, adopts those that upstream pgqrs 0.15.3 installed, and refuses what it does not know.

Everything happens in one transaction under upstream's own migration lock: an installer that is killed leaves nothing
behind, and two at once, of whichever kind, run one after the other.

A migration has two parts. `pre` only adds, so it runs before new code is rolled out and the code of the release before
does not notice. `post` removes what nobody needs any more, so it runs when no old code is left. All pre parts run
before the first post part.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import asyncpg

from pgqrs import arguments, errors, roles, statements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.database import Database, Transaction

Part: TypeAlias = Literal["pre", "post"]
#: What to install: one part of all migrations, or both.
Phase: TypeAlias = Literal["pre", "post", "all"]

_UPSTREAM_MIGRATION = "upstream_0_15_3"
_FILE = re.compile(r"(?P<version>[0-9]{4})_(?P<part>pre|post)_[a-z0-9_]+")

#: Upstream 0.15.3's migrations: version, description, SHA-384 of its file (`docs/design/schema.md`).
UPSTREAM_CHECKSUMS = (
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
_UPSTREAM_HISTORY = "_sqlx_migrations"
#: How long a migration waits for a table that a transaction is using; everybody else waits behind it meanwhile.
_LOCK_TIMEOUT = "10s"
#: How long an installation may take: the indexes of large tables are built in it, and another installer waited for.
DEFAULT_INSTALL = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Migration:
    """One part of a migration: a file of `pgqrs/sql/migrations`. A file that was released is never changed."""

    version: int
    part: Part
    file: str
    checksum: str

    @property
    def key(self) -> tuple[int, str]:
        """What the history knows it by."""
        return self.version, self.part


@cache
def migrations() -> tuple[Migration, ...]:
    """Give ours in the order in which they are installed: every pre part, then every post part."""
    found = []
    for file in statements.migration_files():
        if (match := _FILE.fullmatch(file)) is not None:
            part: Part = "pre" if match["part"] == "pre" else "post"
            checksum = hashlib.sha256(statements.migration_source(file).encode()).hexdigest()
            found.append(Migration(int(match["version"]), part, file, checksum))
    return tuple(sorted(found, key=lambda one: (one.part == "post", one.version)))


def lock_key(database_name: str) -> int:
    """Upstream's advisory lock for migrations: a factor times the CRC-32 of the database's name."""
    return _UPSTREAM_LOCK_FACTOR * zlib.crc32(database_name.encode())


async def install(
    db: Database, *, phase: Phase = "all", role_prefix: str | None = None, timeout: timedelta = DEFAULT_INSTALL
) -> None:
    """Bring the schema to the newest version; does nothing where it is there already.

    Args:
        db: where.
        phase: `pre` before new code is rolled out, `post` when no old code is left, `all` for both at once.
        role_prefix: also make the four roles `PREFIXowner`, `PREFIXproducer`, `PREFIXconsumer` and `PREFIXobserver`
            (see `roles`); remembered, so that later installations grant them what is new.
        timeout: how long all of it may take, whatever the time for one call is; 10 minutes if not given. Nothing is
            changed where that is not enough.

    Raises:
        SchemaError: the tables are of an older generation of upstream, were changed, or come from a newer release; or
            `post` is asked for before `pre` was.
        ValidationError: phase, prefix or timeout are not allowed.
        DatabaseUnavailableError: PostgreSQL cannot be reached, a long transaction holds one of the tables, or the time
            was not enough.
        DatabaseError: PostgreSQL refuses, for lack of rights mostly.
    """
    wanted = _parts(phase)
    prefix = None if role_prefix is None else roles.check_prefix(role_prefix)
    seconds = arguments.seconds("timeout", timeout, positive=True)
    ends_at = asyncio.get_running_loop().time() + seconds
    try:
        async with db.transaction(timeout=seconds) as transaction:
            name = await transaction.connection.fetchval("SELECT current_database()")
            await transaction.fetch_value("schema.lock", lock_key(name))
            await transaction.fetch_value("schema.limit_waiting", _LOCK_TIMEOUT)
            await _install_upstream(db, transaction)
            await transaction.fetch("schema.create_history")
            done = await _history(transaction)
            _check_history(db, done)
            if "pre" not in wanted:
                _check_complete(db, done, ("pre",))
            for migration in migrations():
                if migration.part in wanted and migration.key not in done:
                    await transaction.execute(statements.migration(migration.file, db.schema))
                    await transaction.fetch(
                        "schema.record", migration.version, migration.part, migration.file, migration.checksum
                    )
            await roles.grant(db, transaction, prefix)
    except errors.DatabaseError as error:
        if isinstance(error.__cause__, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
            message = (
                f"A transaction is using the tables in schema {db.schema} of {db.where}; nothing was changed. "
                "Install again when it has ended."
            )
            raise errors.DatabaseUnavailableError(message) from error
        if isinstance(error.__cause__, TimeoutError) and asyncio.get_running_loop().time() >= ends_at:
            message = (
                f"Installing in schema {db.schema} of {db.where} took longer than {timeout}; nothing was changed. "
                "Another installer may be at work, or the tables are large: install again with a longer timeout."
            )
            raise errors.DatabaseUnavailableError(message) from error
        raise


async def _install_upstream(db: Database, transaction: Transaction) -> None:
    """Make upstream's tables where there are none; where there are, see whether they are those that we know."""
    found = await _found(db, transaction)
    if not found & _CORE_TABLES:
        await transaction.execute(statements.migration(_UPSTREAM_MIGRATION, db.schema))
        for version, description, checksum in UPSTREAM_CHECKSUMS:
            await transaction.fetch("schema.record_upstream", version, description, bytes.fromhex(checksum))
        return
    _check_generation(db, found)
    if _HISTORY not in found:
        await _check_adoptable(db, transaction, found)


async def verify(db: Database, *, phase: Phase = "all") -> None:
    """Check that the schema is the one that this version needs, without changing anything.

    Args:
        db: where.
        phase: which parts of the migrations must be there; `pre` is all that this version needs to work.

    Raises:
        SchemaError: it is not; the message says what is missing.
        ValidationError: there is no such phase.
        DatabaseUnavailableError: PostgreSQL cannot be reached.
    """
    wanted = _parts(phase)
    async with db.transaction() as transaction:
        found = await _found(db, transaction)
        if not found & _CORE_TABLES:
            message = f"There are no pgqrs tables in schema {db.schema} of {db.where}; run `Admin.install()`."
            raise errors.SchemaError(message)
        _check_generation(db, found)
        done = await _history(transaction) if _HISTORY in found else {}
        _check_history(db, done)
        _check_complete(db, done, wanted)
        missing = [row["name"] for row in await transaction.fetch("schema.missing", db.schema)]
        if missing:
            message = (
                f"Schema {db.schema} of {db.where} was installed, but lacks {', '.join(missing)}; somebody removed "
                "what every client needs. Make it again, as the migrations of `pgqrs/sql` do."
            )
            raise errors.SchemaError(message)


def _parts(phase: str) -> tuple[Part, ...]:
    if phase not in get_args(Phase):
        message = f"There is no phase {phase!r}; it is pre, post or all."
        raise errors.ValidationError(message)
    return tuple(part for part in get_args(Part) if phase in (part, "all"))


async def _found(db: Database, transaction: Transaction) -> set[str]:
    if not await transaction.fetch_value("schema.schema_exists", db.schema):
        message = f"There is no schema {db.schema} in {db.where}; create it first: CREATE SCHEMA {db.schema};"
        raise errors.SchemaError(message)
    return {row["name"] for row in await transaction.fetch("schema.tables", db.schema)}


async def _history(transaction: Transaction) -> dict[tuple[int, str], str]:
    return {(row["version"], row["part"]): row["checksum"] for row in await transaction.fetch("schema.history")}


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


async def _check_adoptable(db: Database, transaction: Transaction, found: set[str]) -> None:
    """Refuse tables of the right names that 0.15.3 did not make: upstream's own record has to say so."""
    where = f"in schema {db.schema} of {db.where}"
    if _UPSTREAM_HISTORY not in found:
        message = (
            f"The tables {where} were made by hand or copied in part: upstream's record {_UPSTREAM_HISTORY} is "
            "missing, and its clients could not bootstrap. Copy that table too, or use another schema."
        )
        raise errors.SchemaError(message)
    recorded = {
        row["version"]: row["checksum"].hex()
        for row in await transaction.fetch("schema.upstream_history")
        if row["success"]
    }
    known = {version: checksum for version, _, checksum in UPSTREAM_CHECKSUMS}
    if recorded != known:
        versions = {version for version in recorded | known if recorded.get(version) != known.get(version)}
        message = (
            f"The tables {where} are not those of upstream pgqrs 0.15.3: its migrations "
            f"{', '.join(map(str, sorted(versions)))} are others, or only some of them. Use another schema."
        )
        raise errors.SchemaError(message)


def _check_history(db: Database, done: dict[tuple[int, str], str]) -> None:
    """Refuse what this release does not know, but for pre parts: they come before the code that they are for."""
    where = f"Schema {db.schema} of {db.where}"
    known = {migration.key: migration for migration in migrations()}
    for (version, part), checksum in done.items():
        migration = known.get((version, part))
        if migration is None:
            if part == "pre":
                continue
            message = f"{where} was installed by a newer release (migration {version}, {part}); upgrade this one."
            raise errors.SchemaError(message)
        if checksum != migration.checksum:
            message = f"{where}: migration {migration.file} has another checksum; it was not installed by a release."
            raise errors.SchemaError(message)


def _check_complete(db: Database, done: Iterable[tuple[int, str]], wanted: tuple[Part, ...]) -> None:
    """Name the migrations that are missing, by the part that has to be installed first."""
    for part in wanted:
        missing = [one.file for one in migrations() if one.part == part and one.key not in done]
        if missing:
            message = (
                f"Schema {db.schema} of {db.where} lacks the {part} part: {', '.join(missing)}; "
                f'run `Admin.install(phase="{part}")`, or `Admin.install()` for both parts.'
            )
            raise errors.SchemaError(message)
