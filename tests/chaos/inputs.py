"""Faults of what is read and of the disk that is written: F13 to F16."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.stage import NotHere, Seen, Stage

__all__ = ["damaged", "debris", "disk_full", "drift", "mounted"]


def debris(stage: Stage) -> Seen:
    """What a writer that died left in the sink's folder is nobody's row."""
    stage.data()
    rows = pq.read_table(next((stage.folder / "in").iterdir())).select(["id", "a"]).rename_columns(["id", "score"])
    outs = (stage.sink, stage.folder / "plain")
    for out in outs:
        task = out / "_temporary" / "0" / f"task_2026112700000000000_0000_m_{stage.seed:06d}"
        task.mkdir(parents=True)
        pq.write_table(rows, task / f"part-{stage.seed:05d}-dead.parquet")
    stage.balanced(stage.run())
    return stage.seen("ok", str(stage.plain(outs[1])))


def damaged(stage: Stage) -> Seen:
    """A damaged file ends the run by name before a row of its unit is there; whole again, the run goes on."""
    kind = ("cut", "flipped", "deleted")[stage.seed % 3]
    stage.data()
    files = sorted((stage.folder / "in").iterdir())
    path = files[-1] if kind == "deleted" else stage.rng.choice(files)  # the first unit ends before the deletion
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression=None, use_dictionary=False)
    whole, stat = path.read_bytes(), path.stat()
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    place = column.data_page_offset + stage.rng.randrange(1_000, column.total_compressed_size)

    def damage() -> None:
        if kind == "deleted":
            path.unlink()
        else:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << stage.rng.randrange(8)
            path.write_bytes(bytes(flipped) if kind == "flipped" else whole[: len(whole) * 2 // 3])
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    if kind == "deleted":  # after the plan; the others lie there from the start
        ended = stage.ends(codes=["SPS-DATA-GONE"], progress=lambda done, *_: damage() if path.exists() else None)
    else:
        damage()
        ended = stage.ends(codes=["SPS-DATA-FILE"])
    ignoring = {"ignoreCorruptFiles": "true", "ignoreMissingFiles": "true"}
    unprotected = stage.plain(stage.folder / "plain", **ignoring)
    path.write_bytes(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    stage.run()
    return stage.seen(f"{kind}: {ended}, then ok", str(unprotected))


def drift(stage: Stage) -> Seen:
    """One file that has not the columns of the others is named at the plan, and nothing is written."""
    kind = ("missing", "retyped", "renamed")[stage.seed % 3]
    stage.data()
    path = sorted((stage.folder / "in").iterdir())[1]
    whole, table = path.read_bytes(), pq.read_table(path)
    at = table.schema.get_field_index("b")
    if kind == "retyped":
        pq.write_table(table.set_column(at, "b", table["b"].cast(pa.int64()).cast(pa.string())), path)
    else:
        pq.write_table(
            table.drop_columns("b") if kind == "missing" else table.rename_columns(["id", "a", "B2", "c"]), path
        )
    ended = stage.ends(codes=["SPS-DATA-COLUMN"])
    stage.holds(not list((stage.sink / "_delta_log").glob("*.json")), "rows were committed")
    unprotected = str(stage.plain(stage.folder / "plain"))
    path.write_bytes(whole)
    stage.run("mended")
    return stage.seen(f"{kind}: {ended}, then ok", unprotected)


def disk_full(stage: Stage) -> Seen:
    """The sink's disk fills up under the first or the second unit; with room again the run goes on."""
    stage.data()
    disk, plain = stage.folder / "out", stage.folder / "plain"
    with mounted(disk, "2m"), mounted(plain, "2m"):
        _fill(disk, leave_bytes=(60_000, 130_000)[stage.seed % 2])
        ended = stage.ends(codes=["SPS-CLUSTER-STORAGE"])
        (disk / ".filler").unlink()
        stage.run()
        _fill(plain, leave_bytes=110_000)
        first = stage.plain(plain, committer="2")
        (plain / ".filler").unlink()
        again = stage.plain(plain, committer="2")
        return stage.seen(f"{ended}, then ok", f"{first}; again: {again}")


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """Mount a small disk of its own at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        raise NotHere("no right to mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(disk: Path, leave_bytes: int) -> None:
    """Fill a disk up to the last bytes."""
    free = shutil.disk_usage(disk).free
    (disk / ".filler").write_bytes(bytes(max(0, free - leave_bytes)))
