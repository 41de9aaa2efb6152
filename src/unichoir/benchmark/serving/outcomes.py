"""Count the outcomes of many sessions; the base of `results.Load` and `soak.Soak`."""

from collections import Counter
from dataclasses import dataclass

from unichoir.benchmark.serving.client import SessionResult


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The outcomes of all sessions in a measurement."""

    sessions: tuple[SessionResult, ...]

    def count(self, outcome: str) -> int:
        """Return the number of sessions with this outcome."""
        return sum(session.outcome == outcome for session in self.sessions)

    @property
    def wrong(self) -> list[SessionResult]:
        """The completed sessions with other words than a single stream."""
        return [session for session in self.sessions if session.outcome == "completed" and not session.is_right]

    @property
    def reasons(self) -> Counter[str]:
        """The reasons why sessions were not completed, with their counts."""
        return Counter(f"{session.outcome}: {session.reason}" for session in self.sessions if session.reason)

    def objections(self) -> list[str]:
        """Return everything that went wrong; empty if nothing did."""
        found = [f"{self.count(outcome)} {outcome}" for outcome in ("refused", "failed") if self.count(outcome)]
        if not self.count("completed"):
            found.append("no session was completed")
        if self.wrong:
            found.append(f"{len(self.wrong)} with wrong words")
        return found
