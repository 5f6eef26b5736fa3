"""Makes Java's archive of the classes that a run loads: it spares each JVM of the tests a quarter of its first run.

`make test` makes it once, beside the jars: ``python -m tests.archive FILE``. Java takes no archive of another Java or
of other jars, and says nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

__all__ = ["ARCHIVE", "JAVA_OPTIONS"]

ARCHIVE = Path(__file__).parents[1] / ".jars" / "spark.jsa"
# Without Java's second compiler: sessions end before it pays, and the suite takes a quarter less CPU.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -Xlog:cds=off -Xlog:cds+dynamic=off"


def main(archive: str) -> None:
    """Score a few rows in a session of their own, and let its JVM end in peace: then it writes the archive."""
    os.environ["JDK_JAVA_OPTIONS"] = f"{JAVA_OPTIONS} -XX:ArchiveClassesAtExit={archive}"
    from pyspark import SparkContext

    import sparkscore as ss
    from sparkscore.spark.sessions import local_session
    from tests.run.conftest import linear_model, write_rows

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SPARKSCORE_CACHE"] = str(folder / "cache")
        spark = local_session("local[2,4]")
        document = {
            "version": 1,
            "name": "archive",
            "source": {"format": "parquet", "location": write_rows(folder / "in", 400, bad=lambda i: i == 7)},
            "model": {"uri": linear_model(folder / "linear.onnx")},
            "inputs": {"x": ["a", "b", "c"]},
            "outputs": {"score": "y[:, 0]"},
            "keys": ["id"],
            "sink": {"format": "delta", "location": str(folder / "out")},
            "ledger": str(folder / "ledger"),
        }
        ss.Pipeline.load(document).run(spark)
        spark.stop()
        gateway = SparkContext._gateway
        assert gateway is not None, "a session that ran has a JVM"
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()


if __name__ == "__main__":
    main(sys.argv[1])
