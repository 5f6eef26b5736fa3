"""The staged line: units are files that no reader sees, committed by manifests; at its end the run is shown as a whole.

How it is shown depends on the sink: files by their run's manifest, a Delta table by one commit, and what is neither by
handing over unit after unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkscore.ledger.plans import Plan, Unit
from sparkscore.ledger.store import Store
from sparkscore.run.debris import sweep_debris
from sparkscore.run.line import gap, skipped
from sparkscore.run.publishing import publication_of
from sparkscore.run.stage import Manifest, Stage
from sparkscore.spark.commit import Commit, Committed, count_statuses

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["StagedLine"]


class StagedLine:
    """Units are committed by manifests, whatever the sink; who commits second finds the first one's."""

    app_id: str | None = None

    def __init__(self, spark: SparkSession, sink: Any, plan: Plan, ledger: Store) -> None:
        self._plan = plan
        self._run_id = plan.run_id
        self._ledger = ledger
        self._publication = publication_of(spark, sink, ledger, plan)
        self._stage: Stage = self._publication.stage

    def write(self, frame: DataFrame, commit: Commit) -> None:
        """Stage a unit, and commit it unless another attempt has."""
        self._stage.write(frame, commit, self._plan.sha256)

    def find(self, unit: Unit, *, again: bool = False) -> Commit | None:
        """Find the commit of a unit.

        Raises
        ------
        RecordError
            `SPS-TXN-SKIPPED` when the manifest under the unit's number is of other files.
        """
        del again  # a manifest is of its unit alone
        manifest = self._stage.manifest(unit.seq)
        if manifest is not None and manifest.unit_id != unit.unit_id:
            raise skipped(f"unit {unit.seq} with id {unit.unit_id[:12]}", f"id {manifest.unit_id[:12]}", self._run_id)
        return manifest.commit if manifest is not None else None

    def standing(self, known: Mapping[int, Commit]) -> tuple[dict[int, Commit], list[int]]:
        """Tell which units have a manifest; none is ever lost, since a manifest's name is given once.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when a manifest is gone, or is of other files than planned.
        """
        committed = set(self._stage.committed())
        gone = sorted(set(known) - committed)
        if gone:
            raise gap(f"the manifest of unit {gone[0]}", "none", self._run_id)
        manifests = self._stage.manifests(committed)
        for manifest in manifests:
            planned = self._plan.units[manifest.unit_seq : manifest.unit_seq + 1]
            if [unit.unit_id for unit in planned] != [manifest.unit_id]:
                raise gap(f"unit {manifest.unit_seq} as planned", "other files under its number", self._run_id)
        return {manifest.unit_seq: manifest.commit for manifest in manifests}, []

    def count(self, commits: Sequence[Commit]) -> dict[str, Committed]:
        """Count the staged rows of units, by one query over their files."""
        manifests = self._stage.manifests(commit.unit_seq for commit in commits)
        frame = self._stage.read(manifests)
        ids = [m.unit_id for m in manifests]
        counted = (
            count_statuses(frame, ids) if frame is not None else dict.fromkeys(ids, Committed(0, 0, frozenset(), ()))
        )
        return {m.unit_id: _with_files(counted[m.unit_id], m) for m in manifests}

    def assert_held(self, rows: Mapping[int, int]) -> None:
        """Prove that the files of the units are there, whole, and of so many rows; in a sink of the publication's own,
        that it holds the rows.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP`.
        """
        if self._stage.is_published and self._publication.is_copy:
            self._publication.assert_held(rows)
            return
        manifests = self._stage.manifests(rows)
        for manifest in manifests:
            if manifest.rows is not None and manifest.rows != rows[manifest.unit_seq]:
                expected = f"{rows[manifest.unit_seq]} rows of unit {manifest.unit_seq}"
                raise gap(expected, f"{manifest.rows}", self._run_id)
        self._stage.assert_whole(manifests)

    def rows(self) -> DataFrame | None:
        """Read the run's rows: from the stage while it is there, then from where they were copied to."""
        if self._stage.is_swept:
            return self._publication.rows()
        return self._stage.read(self._stage.manifests(self._stage.committed()))

    def publish(self, rows: Mapping[int, int], attempt: int) -> None:
        """Show the run.

        Raises
        ------
        ClusterError
            `SPS-FENCED` when the run was discarded meanwhile; what this driver showed is taken back.
        """
        self._stage.assert_open()
        if self._stage.is_published:
            return
        manifests = self._stage.manifests(rows)
        self._publication.show(manifests, rows, attempt)
        if not self._stage.close({"attempt": attempt, "rows": sum(rows.values())}, manifests):
            self._publication.take_back()
            raise self._stage.discarded()

    def assert_discardable(self) -> None:
        """Refuse to discard rows that were handed over."""
        self._publication.assert_discardable()

    def discard(self) -> bool:
        """Take the run back: no reader sees it any more, and no driver that was taken for dead brings it back."""
        self._stage.mark_discarded()
        self._stage.delete()  # before what was shown: a driver that is showing it at this moment finds nothing more
        self._publication.take_back()
        return True

    def sweep(self) -> None:
        """Delete the copy in the stage, once the sink has the rows, and what dead attempts left behind."""
        if self._publication.is_copy:
            self._stage.sweep()
        sweep_debris(self._publication.store, self._ledger)


def _with_files(counted: Committed, manifest: Manifest) -> Committed:
    found = tuple(sorted((f.path, f.size_bytes) for f in manifest.files))
    return Committed(counted.ok_rows, counted.bad_rows, counted.task_attempt_ids, found)
