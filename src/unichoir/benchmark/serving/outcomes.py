"""What became of many sessions."""

from collections import Counter
from dataclasses import dataclass

from unichoir.benchmark.serving.client import SessionResult


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Of the sessions of one measurement."""

    sessions: tuple[SessionResult, ...]

    def count(self, outcome: str) -> int:
        """Sessions with that outcome."""
        return sum(session.outcome == outcome for session in self.sessions)

    @property
    def wrong(self) -> list[SessionResult]:
        """Completed sessions whose text is not that of a single stream."""
        return [session for session in self.sessions if session.outcome == "completed" and not session.is_right]

    @property
    def reasons(self) -> Counter[str]:
        """Why sessions were not completed."""
        return Counter(f"{session.outcome}: {session.reason}" for session in self.sessions if session.reason)

    def objections(self) -> list[str]:
        """What went wrong; empty: nothing."""
        found = [f"{self.count(outcome)} {outcome}" for outcome in ("refused", "failed") if self.count(outcome)]
        if not self.count("completed"):
            found.append("no session was completed")
        if self.wrong:
            found.append(f"{len(self.wrong)} with wrong words")
        return found
