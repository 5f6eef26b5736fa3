"""How a staged run is shown: files by a rename and a manifest, a Delta table by one commit, others unit after unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store, open_store
from sparkscore.run.leasing import lease_of_table
from sparkscore.run.line import gap
from sparkscore.run.sink_store import SinkStore
from sparkscore.run.stage import Manifest, Stage, shows_folders
from sparkscore.spark.commit import count_rows, discard, publish_app_id, published_at, table_of, write_run
from sparkscore.spark.failures import mapped
from sparkscore.spark.flat import flattened, nested
from sparkscore.spark.rows import secrets_of
from sparkscore.spark.unit_files import Layout
from sparkscore.spark.views import make_views

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Publication", "foreign_options", "publication_of"]

_MAX_COMMIT_TRIES = 3
_DELIVERED = "delivered"


class Publication:
    """Files: they are the sink, and stay where they are or move as a whole."""

    is_copy = False  # whether the sink holds the rows in another form than the stage's

    def __init__(self, spark: SparkSession, sink: Any, ledger: Store, plan: Plan, layout: Layout) -> None:
        if sink.is_foreign or sink.location is None:
            self.store, root = ledger, _for_spark(ledger.root)
        else:
            self.store, root = SinkStore(open_store(sink.location)), sink.location
        self.stage = Stage(spark, self.store, root, plan.run_id, layout)
        self._spark = spark
        self._sink = sink
        self._plan = plan
        self._run_id = plan.run_id

    def show(self, manifests: Sequence[Manifest], rows: Mapping[int, int], attempt: int) -> None:
        """Give the files to plain readers, where that is one step; the run's manifest gives them to `read_scores`."""
        if shows_folders(self.stage.root):
            self.stage.show(manifests)

    def assert_held(self, rows: Mapping[int, int]) -> None:
        """Prove that the sink still holds so many rows of each unit."""

    def rows(self) -> DataFrame | None:
        """Read the run's rows from the sink."""
        return self.stage.read(self.stage.manifests(self.stage.committed()))

    def assert_discardable(self) -> None:
        """Refuse to discard what cannot be taken back."""

    def take_back(self) -> None:
        """Take back what was shown."""
        if shows_folders(self.stage.root):
            self.stage.hide()


class _DeltaCommit(Publication):
    """A Delta table: all rows of the run in one commit, whose transaction is taken once."""

    is_copy = True

    def show(self, manifests: Sequence[Manifest], rows: Mapping[int, int], attempt: int) -> None:
        """Commit the staged rows, and prove that the commit holds them all.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when the commit holds other rows than were staged.
        ClusterError
            `SPS-CLUSTER-CONFLICT` when other writers overwrote it each time.
        """
        table = table_of(self._sink)
        for left in reversed(range(_MAX_COMMIT_TRIES + 1)):
            version = published_at(self._spark, table, self._run_id)
            if version is not None:
                self._assert_rows(rows, version)
                make_views(self._spark, table)
                return
            frame = self.stage.read(manifests)
            if frame is None:  # an empty input, which the pipeline allows
                return
            if left:
                self._commit(frame, attempt)
        raise error(
            "SPS-CLUSTER-CONFLICT",
            f"Expected the commit of the run to stay. Got it overwritten {_MAX_COMMIT_TRIES} times.",
            "Let one driver at a time write this sink, or give it a store with atomic puts.",
            run=self._run_id,
        )

    def _commit(self, frame: DataFrame, attempt: int) -> None:
        """Try the commit; that of another driver of the same run, at the same moment, is as good."""
        try:
            table = table_of(self._sink)
            table.make(frame, self._sink.partition_by)
            with mapped(self._spark, run=self._run_id), lease_of_table(self._spark, table, self._run_id)():
                write_run(frame, self._sink, self._run_id, attempt, self._plan.sha256)
        except SparkscoreError as failure:
            if failure.code != "SPS-FENCED":
                raise

    def assert_held(self, rows: Mapping[int, int]) -> None:
        """Prove that the commit held the rows; what a later overwrite took is its writer's will."""
        version = published_at(self._spark, table_of(self._sink), self._run_id)
        if rows and version is None:
            raise gap("the commit that published the run", "none", self._run_id)
        if version is not None:
            self._assert_rows(rows, version)

    def rows(self) -> DataFrame | None:
        """Read the run's rows from the table."""
        from pyspark.sql import functions as F

        return table_of(self._sink).read(self._spark).where(F.col("_ss.run_id") == self._run_id)

    def take_back(self) -> None:
        """Delete the run's rows in one commit, and close the table to the run's transaction."""
        table = table_of(self._sink)
        with lease_of_table(self._spark, table, self._run_id)():
            discard(self._spark, table, self._run_id, (publish_app_id(self._run_id), 0))

    def _assert_rows(self, rows: Mapping[int, int], version: int) -> None:
        held = count_rows(self._spark, table_of(self._sink), self._run_id, version)
        for seq, committed in rows.items():
            if held.get(seq, 0) != committed:
                raise gap(f"{committed} rows of unit {seq} at version {version}", f"{held.get(seq, 0)}", self._run_id)


class _Delivery(Publication):
    """Any other format of Spark: each unit is handed over, at least once, and then marked as delivered."""

    is_copy = True

    def show(self, manifests: Sequence[Manifest], rows: Mapping[int, int], attempt: int) -> None:
        """Append the units that are not marked; one whose driver died before its mark is appended again."""
        delivered = self.stage.marks(_DELIVERED)
        for manifest in manifests:
            if manifest.unit_seq in delivered:
                continue
            self.stage.assert_open()
            frame = self.stage.read([manifest])
            if frame is not None:
                writer = flattened(frame).write.format(self._sink.format).mode("append")
                writer.options(**foreign_options(self._sink)).save(self._sink.location)
            self.stage.mark(_DELIVERED, manifest.unit_seq)

    def rows(self) -> DataFrame | None:
        """Read the run's rows from the sink, in which a unit may stand twice."""
        from pyspark.sql import functions as F

        manifests = self.stage.manifests(self.stage.committed())
        if not manifests:
            return None
        reader = self._spark.read.format(self._sink.format).options(**foreign_options(self._sink))
        there = reader.load(self._sink.location) if self._sink.location else reader.load()
        return nested(there.where(F.col("_ss_run_id") == self._run_id), manifests[0].struct)

    def assert_discardable(self) -> None:
        """Refuse to discard rows that were handed over.

        Raises
        ------
        SpecError
            `SPS-SPEC-SINK`, with what the owner of the sink can do.
        """
        if self.stage.marks(_DELIVERED):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected a sink that takes rows back. Got format {self._sink.format}, which has units of the run.",
                f"Delete them there: DELETE … WHERE _ss_run_id = '{self._run_id}'.",
                run=self._run_id,
            )

    def take_back(self) -> None:
        """Do nothing: nothing was handed over."""


def publication_of(spark: SparkSession, sink: Any, ledger: Store, plan: Plan) -> Publication:
    """Give the way in which a sink's runs are shown, with their stage.

    The stage is in the sink's own folder; a sink that has none, a catalog table or a database, has it in the ledger's.
    """
    if sink.is_foreign:
        return _Delivery(spark, sink, ledger, plan, Layout("parquet"))
    if sink.is_delta:
        return _DeltaCommit(spark, sink, ledger, plan, Layout("parquet"))
    layout = Layout(sink.format, sink.partition_by, tuple(sorted(sink.options.items())))
    return Publication(spark, sink, ledger, plan, layout)


def foreign_options(sink: Any) -> dict[str, str]:
    """Give the options of a sink for Spark, with the secrets that it refers to."""
    return {**sink.options, **secrets_of(sink.credentials, "sink.credentials")}


def _for_spark(root: str) -> str:
    """Name a ledger's folder so that Spark takes it for a local one whatever its default file system is."""
    return f"file://{root}" if root.startswith("/") else root
