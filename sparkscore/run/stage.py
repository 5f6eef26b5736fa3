"""A run's units as staged files: each is committed by a manifest, which is written once, and found by it again.

    _stage/_ss_run=<run_id>/_ss_attempt=<n>/_ss_unit=<n>/…   the files, in a folder that one attempt writes once
    _manifests/<run_id>/<unit>.json                          the unit's commit: the first attempt's holds
    _manifests/<run_id>/run.json                             the run's end: published or discarded
    run_id=<run_id>/…                                        the files of a published run, where folders can be renamed

The folders of the stage are named as Spark names partitions, so that one read takes many units with partitions of the
user's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.store import Store
from sparkscore.run.line import gap
from sparkscore.runtime import files
from sparkscore.spark.commit import Commit
from sparkscore.spark.unit_files import Layout, UnitFile, look_at, read_rows, write_rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["Manifest", "Stage", "folder_name", "run_of", "shows_folders"]

_READS_AT_ONCE = 16
_DISCARDED, _PUBLISHED, _SWEPT = "discarded", "published", "swept"


@dataclass(frozen=True)
class Manifest:
    """The commit of a unit. `schema` is that of its rows, with `_ss`, as Spark's JSON."""

    run_id: str
    unit_seq: int
    unit_id: str
    attempt: int
    plan_sha256: str
    files: tuple[UnitFile, ...]
    schema: str

    @property
    def commit(self) -> Commit:
        """The commit that it stands for."""
        return Commit(None, self.unit_seq, self.unit_id, self.attempt)

    @property
    def struct(self) -> StructType:
        """The schema as a Spark type."""
        from pyspark.sql.types import StructType

        return StructType.fromJson(json.loads(self.schema))

    @property
    def rows(self) -> int | None:
        """Rows in the files' footers; None where the format has none."""
        counts = [f.rows for f in self.files]
        return None if any(n is None for n in counts) else sum(n for n in counts if n is not None)


def folder_name(run_id: str) -> str:
    """Name a run's folder: Hadoop's paths have no colon, which run ids of Airflow have."""
    return run_id.replace(":", "%3A")


def run_of(folder: str) -> str:
    """Give the run id of a folder's name."""
    return folder.replace("%3A", ":")


def shows_folders(root: str) -> bool:
    """Whether a folder can be renamed in one step there; S3 would copy each file."""
    return files.local_path(root) is not None or root.startswith("hdfs:")


class Stage:
    """The staged units of one run, below one root."""

    def __init__(self, spark: SparkSession, store: Store, root: str, run_id: str, layout: Layout) -> None:
        self.root = root.rstrip("/")  # as Spark knows the store's place
        self.run_id = run_id
        self.layout = layout
        self._spark = spark
        self._store = store
        self._name = folder_name(run_id)
        self.folder = f"{self.root}/_stage/_ss_run={self._name}"
        self.shown = f"{self.root}/run_id={self._name}"
        self._ready = f"{self.root}/_stage/_ss_ready={self._name}"
        self._known: dict[int, Manifest] = {}  # manifests are written once, so one that was read holds

    # -- units -----------------------------------------------------------------------------------------

    def write(self, frame: DataFrame, commit: Commit, plan_sha256: str) -> None:
        """Write a unit's files, look at them, and commit them; another attempt's commit holds when it came first.

        Raises
        ------
        ClusterError
            `SPS-FENCED` when the run was discarded meanwhile.
        RecordError
            `SPS-DATA-FILE` for a file that is not whole; nothing is committed then.
        """
        folder = self._unit_folder(commit.attempt, commit.unit_seq)
        write_rows(frame, folder, self.layout)
        found = tuple(look_at(folder, self.layout, frame.columns))
        schema = frame.schema.json()
        manifest = Manifest(self.run_id, commit.unit_seq, commit.unit_id, commit.attempt, plan_sha256, found, schema)
        self.assert_open()
        self._store.put_if_absent(self._manifest_name(commit.unit_seq), json.dumps(asdict(manifest)).encode())

    def manifest(self, seq: int) -> Manifest | None:
        """Read the commit of a unit, None when there is none."""
        if seq not in self._known:
            data = self._store.get(self._manifest_name(seq))
            if data is None:
                return None
            keys = json.loads(data)
            self._known[seq] = Manifest(**{**keys, "files": tuple(UnitFile(**f) for f in keys["files"])})
        return self._known[seq]

    def committed(self) -> list[int]:
        """List the units that have a commit."""
        names = (name.removesuffix(".json") for name in self._store.names(f"_manifests/{self._name}"))
        return sorted(int(name) for name in names if name.isdigit())

    def manifests(self, seqs: Iterable[int]) -> list[Manifest]:
        """Read the commits of units.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when one is gone.
        """
        wanted = sorted(seqs)
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            found = list(pool.map(self.manifest, wanted))
        missing = [seq for seq, manifest in zip(wanted, found, strict=True) if manifest is None]
        if missing:
            raise gap(f"the manifest of unit {missing[0]}", "none", self.run_id)
        return [manifest for manifest in found if manifest is not None]

    def read(self, manifests: Sequence[Manifest]) -> DataFrame | None:
        """Read the rows of units; None when they have no file."""
        by_base: dict[str, list[str]] = {}
        for base, uri, _ in self._located(manifests):
            by_base.setdefault(base, []).append(uri)
        if not by_base:
            return None
        frame: DataFrame = read_rows(self._spark, by_base, self.layout, manifests[0].struct)
        return frame

    def assert_whole(self, manifests: Sequence[Manifest]) -> None:
        """Prove that every file of the units is there with its size.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP`.
        """
        found = self._located(manifests)
        for (_, uri, size), now in zip(found, files.stat([uri for _, uri, _ in found]), strict=True):
            if now is None or now.size_bytes != size:
                got = "nothing" if now is None else f"{now.size_bytes} bytes"
                raise gap(f"{size} bytes of {uri}", got, self.run_id)

    # -- the run's end ---------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What the run's own manifest says: published, discarded, or nothing yet."""
        data = self._store.get(f"_manifests/{self._name}/run.json")
        return "" if data is None else str(json.loads(data)["state"])

    @property
    def is_published(self) -> bool:
        """Whether the run was shown to readers."""
        return self.state == _PUBLISHED

    def assert_open(self) -> None:
        """Stop a driver whose run was discarded.

        Raises
        ------
        ClusterError
            `SPS-FENCED`.
        """
        if self.state == _DISCARDED:
            raise self.discarded()

    def discarded(self) -> SparkscoreError:
        """The error of a driver that goes on with a discarded run."""
        return error(
            "SPS-FENCED",
            f"Expected run {self.run_id} to be this driver's. Got a run that was discarded.",
            "Start a new run id.",
            run=self.run_id,
        )

    def close(self, facts: Mapping[str, Any], manifests: Sequence[Manifest]) -> bool:
        """Publish the run by its manifest, which lists its files; False when the run was discarded meanwhile.

        Raises
        ------
        RecordError
            `SPS-LEDGER-GAP` when a file is not where readers would look for it.
        """
        if self.state:  # another driver's, which may have swept the stage by now
            return self.is_published
        self.assert_whole(manifests)
        located = self._located(manifests)
        base = located[0][0] if located else self.root
        body = {
            "state": _PUBLISHED,
            "run_id": self.run_id,
            "units": len(manifests),
            "layout": asdict(self.layout),
            "schema": manifests[0].schema if manifests else None,
            "base": base[len(self.root) + 1 :],
            "files": [uri[len(base) + 1 :] for _, uri, _ in located],
            **facts,
        }
        self._store.put_if_absent(f"_manifests/{self._name}/run.json", json.dumps(body).encode())
        return self.is_published

    def mark_discarded(self) -> None:
        """Close the run to every driver: what one of them commits later is never shown."""
        body = json.dumps({"state": _DISCARDED, "run_id": self.run_id}).encode()
        self._store.put(f"_manifests/{self._name}/run.json", body)

    def show(self, manifests: Sequence[Manifest]) -> None:
        """Give the files to plain readers, all at once, by the rename of one folder.

        It may be repeated after any crash, and by two drivers at once: a file that is not in the stage any more was
        moved by the other one, and so was the folder.
        """
        if files.stat([self.shown])[0] is not None:
            return
        handle, ready = files.filesystem(self._ready)
        handle.create_dir(ready, recursive=True)  # of a run without rows too
        for manifest in manifests:
            folder = self._unit_folder(manifest.attempt, manifest.unit_seq)
            for file in manifest.files:
                self._move(f"{folder}/{file.path}", f"{self._ready}/{file.path}")
        self._move(self._ready, self.shown)

    def hide(self) -> None:
        """Take the shown folder away from plain readers in one step, then delete it."""
        aside = f"{self.root}/_stage/_ss_discarded={self._name}"
        if files.stat([self.shown])[0] is not None:
            files.move(self.shown, aside)
        files.delete_folder(aside)

    @property
    def is_swept(self) -> bool:
        """Whether the staged files are gone, or going."""
        return bool(self.marks(_SWEPT))

    def sweep(self) -> None:
        """Delete the staged files of a run whose rows are elsewhere; readers are told first."""
        self.mark(_SWEPT, 0)
        self.delete()

    def delete(self) -> None:
        """Delete the staged files."""
        files.delete_folder(self.folder)
        files.delete_folder(self._ready)

    def marks(self, kind: str) -> set[int]:
        """List the units that carry a mark, such as that they were delivered."""
        names = self._store.names(f"_manifests/{self._name}/{kind}")
        return {int(name.removesuffix(".json")) for name in names}

    def mark(self, kind: str, seq: int) -> None:
        """Mark a unit, once."""
        self._store.put_if_absent(f"_manifests/{self._name}/{kind}/{seq:06d}.json", b"{}")

    # -- places ----------------------------------------------------------------------------------------

    def _unit_folder(self, attempt: int, seq: int) -> str:
        return f"{self.folder}/_ss_attempt={attempt:06d}/_ss_unit={seq:06d}"

    def _manifest_name(self, seq: int) -> str:
        return f"_manifests/{self._name}/{seq:06d}.json"

    def _move(self, source: str, target: str) -> None:
        try:
            files.move(source, target)
        except (FileNotFoundError, SparkscoreError):
            if all(found is None for found in files.stat([target, self.shown])):
                raise

    def _located(self, manifests: Sequence[Manifest]) -> list[tuple[str, str, int]]:
        """Find where the files are by now: their base, their URI, and the size that they must have."""
        units = [(self._unit_folder(m.attempt, m.unit_seq), f) for m in manifests for f in m.files]
        if files.stat([self.shown])[0] is not None:
            return [(self.root, f"{self.shown}/{f.path}", f.size_bytes) for _, f in units]
        base = f"{self.root}/_stage"
        staged = [(base, f"{folder}/{f.path}", f.size_bytes) for folder, f in units]
        if files.stat([self._ready])[0] is None:
            return staged
        there = files.stat([uri for _, uri, _ in staged])  # a driver died while it was moving files
        ready = [(self._ready, f"{self._ready}/{f.path}", f.size_bytes) for _, f in units]
        return [s if now is not None else r for s, r, now in zip(staged, ready, there, strict=True)]
