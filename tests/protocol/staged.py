"""What stands in for the files of a staged line: folders that move in one step, and rows that are read when used."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sparkscore.errors import error
from sparkscore.run import publishing, stage, staged_line
from sparkscore.spark.commit import Committed
from sparkscore.spark.unit_files import UnitFile
from tests.protocol.stand_ins import Frame, Row, Writer

__all__ = ["SINK", "put"]

SINK = "/out"


class Rows(Writer):
    """Staged files as a frame, which reads them when it is written or counted."""

    def __init__(self, session: Any, paths: Sequence[str]) -> None:
        super().__init__(session)
        self.paths = paths

    def computed(self) -> tuple[Row, ...]:
        files = self.session.world.files
        gone = [path for path in self.paths if path not in files]
        if gone:
            raise error("SPS-DATA-GONE", f"Expected staged files. Got no {gone[0]}.", "-")
        return tuple(row for path in self.paths for row in files[path])

    def save(self, _: str) -> None:
        self.commit(("C3 of the run", "C4 of the run", "C8"))


def _write_rows(frame: Frame, folder: str, _: object) -> None:
    driver = threading.current_thread()
    with driver.at("write"):
        pass
    with driver.at("C3"):
        rows = frame.computed()
    with driver.at("C4"):
        assert not _inside(folder), "a folder is written once"
        driver.world.files[f"{folder}/part-{frame.unit.seq}-{frame.attempt}"] = rows


def _look_at(folder: str, *_: object) -> list[UnitFile]:
    files = threading.current_thread().world.files
    return [UnitFile(path.removeprefix(f"{folder}/"), len(files[path]), len(files[path])) for path in _inside(folder)]


def _inside(folder: str) -> list[str]:
    return sorted(p for p in threading.current_thread().world.files if p.startswith(f"{folder}/"))


def _stat(uris: Sequence[str]) -> list[Any]:
    world = threading.current_thread().world
    found: list[Any] = []
    for uri in uris:
        is_folder = uri in world.folders or bool(_inside(uri))
        size = len(world.files[uri]) if uri in world.files else 0
        found.append(SimpleNamespace(size_bytes=size) if uri in world.files or is_folder else None)
    return found


def _move(source: str, target: str) -> None:
    driver = threading.current_thread()
    world = driver.world
    with driver.at("move"):
        if _stat([source])[0] is None:
            raise FileNotFoundError(source)
        if source not in world.files and _stat([target])[0] is not None:
            raise error("SPS-CLUSTER-STORAGE", f"Expected no folder {target}. Got one.", "-")
        for path in [source] if source in world.files else _inside(source):
            world.files[target + path.removeprefix(source)] = world.files.pop(path)
        if source in world.folders:
            world.folders.discard(source)
            world.folders.add(target)


def _delete_folder(folder: str) -> None:
    driver = threading.current_thread()
    with driver.at("C10"):
        for path in _inside(folder):
            del driver.world.files[path]
        driver.world.folders.discard(folder)


def _filesystem(uri: str) -> tuple[Any, str]:
    folders = threading.current_thread().world.folders
    return SimpleNamespace(create_dir=lambda path, recursive: folders.add(path)), uri


def _sweep_debris(*_: object) -> None:
    with threading.current_thread().at("C10"):
        pass


def _count_statuses(rows: Rows, ids: Sequence[str]) -> Mapping[str, Committed]:
    found = {}
    for name in ids:
        of_unit = [row for row in rows.computed() if row.unit_id == name]
        bad = sum(row.status == "error" for row in of_unit)
        found[name] = Committed(len(of_unit) - bad, bad, frozenset(row.task_id for row in of_unit), ())
    return found


def _read_rows(session: Any, by_base: Mapping[str, Sequence[str]], *_: object) -> Rows:
    return Rows(session, [path for paths in by_base.values() for path in paths])


def _count_rows(session: Any, _: object, run_id: str, version: int) -> dict[int, int]:
    seqs = [row.unit_seq for row in session.world.log[version].rows if row.run_id == run_id]
    return {seq: seqs.count(seq) for seq in seqs}


def put(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where a staged line would call Spark and the file system."""
    disk = SimpleNamespace(stat=_stat, move=_move, delete_folder=_delete_folder, filesystem=_filesystem)
    patch.setattr(stage, "files", SimpleNamespace(**vars(disk), local_path=lambda uri: uri))
    for name, stand_in in (("write_rows", _write_rows), ("look_at", _look_at), ("read_rows", _read_rows)):
        patch.setattr(stage, name, stand_in)
    patch.setattr(stage.Manifest, "struct", None)
    patch.setattr(staged_line, "count_statuses", _count_statuses)
    patch.setattr(staged_line, "sweep_debris", _sweep_debris)
    patch.setattr(publishing, "open_store", lambda root: threading.current_thread().store_at(root))
    patch.setattr(publishing, "count_rows", _count_rows)
    patch.setattr(publishing, "make_views", lambda *_: None)
