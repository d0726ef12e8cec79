"""The demo's verdict: numbers from the ledger, and which promise they break, if any."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.ledger import Redelivery

#: From the kill of a process to its message in another's hands, in seconds: detection within 2, and a free consumer.
MAX_REDELIVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed on purpose."""

    pod: str
    workers: tuple[int, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the verdict rests on."""

    expected: int
    summary: dict[str, int]
    redeliveries: list[Redelivery]
    kill: Kill
    problems: list[str] = field(default_factory=list)

    @property
    def kill_to_redelivery(self) -> float | None:
        """Seconds from the kill to the last of the killed process's messages in another's hands."""
        times = [again.started_at - self.kill.at for again in self.redeliveries if again.worker in self.kill.workers]
        return max(times) if times else None

    @property
    def unexplained(self) -> list[Redelivery]:
        """What was delivered again although nobody killed its process: pods were deleted and replaced, and drain."""
        return [again for again in self.redeliveries if again.worker not in self.kill.workers]

    def broken_promises(self) -> list[str]:
        """What did not hold, each in a sentence; empty when all is well."""
        broken = list(self.problems)
        if self.summary["sent"] != self.expected:
            broken.append(f"{self.summary['sent']} messages are in the database, {self.expected} were to be sent")
        if self.summary["lost"]:
            broken.append(f"nothing is lost: {self.summary['lost']} message(s) were never handled")
        if self.summary["not_archived"]:
            broken.append(f"nothing is stuck: {self.summary['not_archived']} message(s) were not finished")
        seconds = self.kill_to_redelivery
        if seconds is None:
            broken.append("nothing is stuck: no message of the killed process was delivered again")
        elif seconds > MAX_REDELIVERY_SECONDS:
            broken.append(f"nothing is stuck: {seconds:.1f} s from the kill to the redelivery")
        if self.unexplained:
            causes = sorted({f"{again.pod}: {again.cause}" for again in self.unexplained})
            broken.append(
                f"a deleted pod drains: {len(self.unexplained)} message(s) delivered again that no kill explains "
                f"({'; '.join(causes)})"
            )
        return broken

    def text(self) -> str:
        """The report for people."""
        twice = [again for again in self.redeliveries if again.finished_before]
        seconds = self.kill_to_redelivery
        lines = [
            f"sent                        {self.summary['sent']}",
            f"handled                     {self.summary['handled']}",
            f"handled twice               {self.summary['twice']}",
            *(f"    message {again.message}: {again.cause} ({again.pod}) after the handler, before the archive"
              for again in twice),
            f"delivered again             {len(self.redeliveries)}",
            *(f"    message {again.message}: {again.cause} ({again.pod})" for again in self.redeliveries),
            f"    by deleting and rolling {len(self.unexplained)}",
            f"lost                        {self.summary['lost']}",
            f"dead letters                {self.summary['dead']}",
            f"kill to redelivery          {'nothing was held' if seconds is None else f'{seconds:.2f} s'}",
        ]  # fmt: skip
        broken = self.broken_promises()
        lines.append("")
        lines += [f"BROKEN  {sentence}" for sentence in broken] or ["every promise held"]
        return "\n".join(lines)
