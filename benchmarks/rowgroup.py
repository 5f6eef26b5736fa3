"""What a fused worker holds at most while it reads one row group of any size: one line a case, Linux only.

``python -m benchmarks.rowgroup`` runs each case in a process and a session of its own, and takes 5 GB of disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.workload import COLUMNS, write_model

CASES = [("floats", 100), ("floats", 2048), ("texts", 50), ("texts", 250), ("lists", 100), ("lists", 1000)]
_ROW_BYTES = {"floats": 128, "texts": 20, "lists": 1032}
_PIECE_ROWS = 50_000
_WIDTH = 256


def write_row_group(path: Path, kind: str, megabytes: int) -> int:
    """Write a file of one row group: incompressible floats; dictionary-encoded texts; or lists of 256 floats."""
    rows = megabytes * 2**20 // _ROW_BYTES[kind]
    table = pa.Table.from_batches(list(_pieces(kind, rows)))
    pq.write_table(table, path, row_group_size=rows, use_dictionary=kind == "texts")
    return rows


def _pieces(kind: str, rows: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(1)
    words = pa.array([f"word {i:06d}" for i in range(50_000)])
    for first in range(0, rows, _PIECE_ROWS):
        n = min(_PIECE_ROWS, rows - first)
        columns: dict[str, Any] = {"id": np.arange(first, first + n)}
        if kind == "floats":
            columns |= {name: rng.standard_normal(n, np.float32) for name in COLUMNS}
        elif kind == "texts":
            columns |= {"f": rng.standard_normal(n, np.float32), "text": words.take(rng.integers(0, len(words), n))}
        else:
            values = pa.array(rng.standard_normal(n * _WIDTH, np.float32))
            columns |= {"x": pa.FixedSizeListArray.from_arrays(values, _WIDTH).cast(pa.list_(pa.float32()))}
        yield pa.record_batch(columns)


def measure(folder: Path, kind: str, megabytes: int) -> str:
    """Score a row group by a fused run into Delta; give the peak PSS of its Python workers, sampled each 20 ms."""
    import sparkscore as ss
    from sparkscore.spark.sessions import local_session

    (folder / "in").mkdir()
    rows = write_row_group(folder / "in" / "a.parquet", kind, megabytes)
    inputs = {"floats": COLUMNS, "texts": ["f"], "lists": "x"}[kind]
    width = {"floats": len(COLUMNS), "texts": 1, "lists": _WIDTH}[kind]
    document = {
        "version": 1,
        "name": "rowgroup",
        "scan": "fused",
        "source": {"format": "parquet", "location": str(folder / "in")},
        "model": {"uri": str(write_model(folder / "mlp.onnx", (width, 64, 1)))},
        "inputs": {"x": inputs},
        "outputs": {"p": "p[:, 0]"},
        "keys": ["id"],
        "keep": ["id", "text"] if kind == "texts" else ["id"],
        "sink": {"format": "delta", "location": str(folder / "out")},
        "ledger": str(folder / "ledger"),
    }
    spark = local_session("local[1]")
    seen: dict[int, int] = {}
    threading.Thread(target=_watch, args=(seen,), daemon=True).start()
    summary = ss.Pipeline.load(document).run(spark, run_id="r").summary()
    assert (summary.ok_rows, summary.scan) == (rows, "fused")
    size = pq.read_metadata(folder / "in" / "a.parquet").row_group(0).total_byte_size
    return f"{kind:<8}{size / 1e6:>8,.0f} MB in a row group{max(seen.values()) / 1e6:>8,.0f} MB at most in a worker"


def _watch(seen: dict[int, int]) -> None:
    while True:
        for path in Path("/proc").glob("[0-9]*/smaps_rollup"):
            pid = int(path.parent.name)
            try:
                if os.getsid(pid) == os.getsid(0) and b"pyspark.daemon" in (path.parent / "cmdline").read_bytes():
                    pss = path.read_text().split("Pss:", 1)[1].split()[0]
                    seen[pid] = max(seen.get(pid, 0), int(pss) * 1024)
            except (OSError, IndexError):
                continue
        time.sleep(0.02)


def main() -> None:
    """Measure one case, named by its kind and megabytes, or each."""
    if len(sys.argv) == 3:
        with tempfile.TemporaryDirectory(prefix="sparkscore-rowgroup-") as folder:
            print(measure(Path(folder), sys.argv[1], int(sys.argv[2])), flush=True)
        return
    for kind, megabytes in CASES:
        command = [sys.executable, "-m", "benchmarks.rowgroup", kind, str(megabytes)]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=True, start_new_session=True)


if __name__ == "__main__":
    main()
