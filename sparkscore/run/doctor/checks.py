"""One check: its code, its verdict, what was found, and the remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Check", "Verdict", "fail", "ok", "warn"]

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What one check came to; `code` is its heading in docs/doctor.md."""

    code: str
    verdict: Verdict
    found: str
    remedy: str = ""

    @property
    def docs(self) -> str:
        """Where the check is explained."""
        return f"docs/doctor.md#{self.code}"

    def to_json(self) -> dict[str, Any]:
        """Give the check as plain JSON values."""
        return {**asdict(self), "docs": self.docs}


def ok(code: str, found: str) -> Check:
    """A check with nothing to do."""
    return Check(code, "ok", found)


def warn(code: str, found: str, remedy: str) -> Check:
    """A run works, with less than it could promise."""
    return Check(code, "warn", found, remedy)


def fail(code: str, found: str, remedy: str) -> Check:
    """A run would fail, or would not be what it seems."""
    return Check(code, "fail", found, remedy)
