"""The Delta line: a unit is one commit of the sink's table, which carries the run's progress as a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sparkscore.ledger.plans import Plan, Unit
from sparkscore.run.leasing import lease_of_table
from sparkscore.run.line import gap, skipped
from sparkscore.spark.commit import (
    Commit,
    Committed,
    app_id,
    commits_of,
    count_rows,
    count_units,
    discard,
    own_commit,
    shut_out,
    table_of,
    write_unit,
)
from sparkscore.spark.delta_log import history
from sparkscore.spark.views import make_views

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["DeltaLine"]

_RECENT = 20  # commits of other writers that may lie on top of ours before the whole history is read


class DeltaLine:
    """Units are visible as they are committed."""

    def __init__(self, spark: SparkSession, sink: Any, plan: Plan) -> None:
        self._spark = spark
        self._sink = sink
        self._plan = plan
        self._run_id = plan.run_id
        self._table = table_of(sink)
        self._lease: Callable[[], AbstractContextManager[None]] | None = None
        self.app_id: str | None = app_id(plan.run_id)

    def write(self, frame: DataFrame, commit: Commit) -> None:
        """Append a unit; Delta skips it when it is committed already, or raises when another one is at it.

        The table is leased while the unit is scored, too: Spark scores and commits in one action. A unit that was lost
        has a transaction of its own. A driver that was taken for dead may still be about to commit it under the run's:
        it is shut out first, and if it was quicker, its commit is the unit's.
        """
        self._table.make(frame, self._sink.partition_by)
        with self._leased():
            if commit.version is not None and commit.version >= 0:
                shut_out(self._spark, self._table, (app_id(self._run_id), commit.unit_seq))
                if self.find(self._plan.units[commit.unit_seq], again=True) is not None:
                    return
            write_unit(frame, self._sink, commit, self._run_id, self._plan.sha256)

    def find(self, unit: Unit, *, again: bool = False) -> Commit | None:
        """Find the one commit of a unit; what this session committed last is looked at first.

        Raises
        ------
        RecordError
            `SPS-TXN-SKIPPED` when Delta skipped the write because the run's transactions are past the unit, or when
            the commit under the unit's number holds other files.
        """
        own = own_commit(self._spark, self._table, self._run_id)
        if own is not None and (own.unit_seq, own.unit_id) == (unit.seq, unit.unit_id):
            return own
        commits = self._commits(_RECENT) or self._commits()
        found = [c for c in commits if c.unit_seq == unit.seq]
        if not found and not again and any(c.unit_seq > unit.seq for c in commits):
            newest = max(c.unit_seq for c in commits)
            raise skipped(f"unit {unit.seq} to be committed", f"none, and unit {newest} is", self._run_id)
        if len(found) > 1:
            raise skipped(f"one commit of unit {unit.seq}", f"{len(found)}", self._run_id)
        if found and found[0].unit_id != unit.unit_id:
            raise skipped(f"unit {unit.seq} with id {unit.unit_id[:12]}", f"id {found[0].unit_id[:12]}", self._run_id)
        return found[0] if found else None

    def standing(self, known: Mapping[int, Commit]) -> tuple[dict[int, Commit], list[int]]:
        """Tell which units the log holds, and which it has lost to another writer: of those that are known to be
        committed, and of those below the highest that is there.

        A known commit that is older than the log reaches was cleaned away, not lost; its rows are counted in any case.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when a unit is there twice, at another version than is known, with other files under its
            number, or when the log does not reach back far enough to tell.
        """
        there: dict[int, Commit] = {}
        for commit in self._commits():
            seq = commit.unit_seq
            if [unit.unit_id for unit in self._plan.units[seq : seq + 1]] != [commit.unit_id]:
                raise gap(f"unit {seq} as planned", "other files under its number", self._run_id)
            if there.setdefault(seq, commit) is not commit:
                raise gap(f"one commit of unit {seq}", "two", self._run_id)
            version = known[seq].version if seq in known else commit.version
            if version != commit.version:
                raise gap(f"unit {seq} at version {version}", f"version {commit.version}", self._run_id)
        absent = [seq for seq in range(max([*there, *known], default=-1) + 1) if seq not in there]
        oldest = self._oldest() if absent else 0
        for seq in absent:
            if seq not in known and oldest > 0:
                expected = f"unit {seq}, which later units stand on"
                raise gap(expected, f"a log that begins at version {oldest}", self._run_id)
            if seq in known and (known[seq].version or 0) < oldest:
                there[seq] = known[seq]
        return there, [seq for seq in absent if seq not in there]

    def count(self, commits: Sequence[Commit]) -> dict[str, Committed]:
        """Count the committed rows of units, by one query."""
        return count_units(self._spark, self._table, self._run_id, [commit.unit_id for commit in commits])

    def assert_held(self, rows: Mapping[int, int]) -> None:
        """Prove that the rows of proved units are still there: RESTORE, DELETE or an overwrite leaves their commits in
        the table's history and takes the rows.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when rows are missing, or more than were committed.
        """
        held = count_rows(self._spark, self._table, self._run_id) if rows else {}
        for seq, committed in rows.items():
            if held.get(seq, 0) != committed:
                raise gap(f"{committed} rows of unit {seq}", f"{held.get(seq, 0)}", self._run_id)

    def rows(self) -> DataFrame | None:
        """Read the run's committed rows; None when there is no table yet."""
        from pyspark.sql import functions as F

        if not history(self._spark, self._table.sql, limit=1):
            return None
        return self._table.read(self._spark).where(F.col("_ss.run_id") == self._run_id)

    def publish(self, rows: Mapping[int, int], attempt: int) -> None:
        """Make the views of a catalog table; each unit was shown by its commit."""
        if rows:
            make_views(self._spark, self._table)

    def assert_discardable(self) -> None:
        """Do nothing: a table gives rows back."""

    def discard(self) -> bool:
        """Delete the run's rows in one commit, and close the table to the run's transactions."""
        last = (app_id(self._run_id), max(len(self._plan.units) - 1, 0))
        with self._leased():
            return discard(self._spark, self._table, self._run_id, last)

    def sweep(self) -> None:
        """Do nothing: files that no commit names are VACUUM's."""

    def _leased(self) -> AbstractContextManager[None]:
        """Keep other writers of ours from the table, by one lease for the whole run."""
        if self._lease is None:
            self._lease = lease_of_table(self._spark, self._table, self._run_id)
        return self._lease()

    def _commits(self, limit: int | None = None) -> list[Commit]:
        return commits_of(self._spark, self._table, self._run_id, limit)

    def _oldest(self) -> int:
        return min((int(row.version) for row in history(self._spark, self._table.sql)), default=0)
