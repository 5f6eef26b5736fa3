"""The ways to score T1, each as its best user would write it: same session options, same threads, same columns out.

Every arm gives id, p and an error column; a raw loop gives the scores alone.
The sink is `noop`, so that no arm pays for a write.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.workload import COLUMNS

BATCH = 8192


@cache
def session(model: str) -> Any:
    """One ONNX Runtime session a process, with the options that sparkscore uses on a CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def raw(spark: Any, rows: Path, model: str) -> None:
    """The floor: one process reads row groups, packs them, runs the model."""
    import pyarrow.parquet as pq

    run = session(model).run
    for path in sorted(rows.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=COLUMNS, use_threads=False):
            run(["p"], {"x": batch.to_tensor(row_major=True).to_numpy()})


def sparkscore(spark: Any, rows: Path, model: str) -> None:
    """`ss.score`: null, infinity and output checks, an error struct, row isolation."""
    _noop(sparkscore_frame(spark, rows, model))


def sparkscore_frame(spark: Any, rows: Path, model: str) -> Any:
    import sparkscore as ss

    return ss.score(spark.read.parquet(str(rows)), model, {"x": COLUMNS}, {"p": "p[:, 0]"}, keep=["id"])


def fused(spark: Any, rows: Path, model: str) -> None:
    """The scan of a run with `scan: fused`, by the scorer and the columns of `ss.score`; no commit and no proof."""
    _noop(fused_frame(spark, rows, model))


@cache
def fused_frame(spark: Any, rows: Path, model: str) -> Any:
    """Plan once: what a plan costs differs more from run to run than a scan of a million rows."""
    import sparkscore as ss
    from sparkscore.run.planning import bound, make_plan
    from sparkscore.run.scan import choose, cores_of, cut_tasks
    from sparkscore.scoring.scorer import result_schema
    from sparkscore.scoring.verdicts import ERR_TYPE
    from sparkscore.spark import udfs
    from sparkscore.spark.carriers import FrameTask, FusedTask
    from sparkscore.spark.schemas import spark_schema

    job = bound(spark, ss.Pipeline.load({**_document(rows, model), "scan": "fused"}).spec)
    plan = make_plan(spark, job, "bench")
    scan = choose(spark, job, plan).scan
    assert scan is not None, "scan: fused gives a scan or raises"
    shown = pa.struct([ERR_TYPE.field(name) for name in ("error_code", "error_message")])
    schema = result_schema(job.scoring, scan.batch_schema)
    schema = schema.set(schema.get_field_index("err"), pa.field("err", shown))
    tasks = cut_tasks(spark, [file for unit in plan.units for file in unit.files], cores_of(spark))
    return udfs.fused_frame(spark, FusedTask(scan, tasks, FrameTask(job.scoring, shown)), spark_schema(schema))


def plain(spark: Any, rows: Path, model: str) -> None:
    """`mapInArrow` by hand: no checks, and an error column that is always null."""
    _noop(plain_frame(spark, rows, model))


def plain_frame(spark: Any, rows: Path, model: str) -> Any:
    frame = spark.read.parquet(str(rows)).select("id", *COLUMNS)
    return frame.mapInArrow(_Plain(model), "id bigint, p float, error string")


class _Plain:
    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        run = session(self.model).run
        for batch in batches:
            x = batch.select(COLUMNS).to_tensor(row_major=True).to_numpy()
            (p,) = run(["p"], {"x": x})
            arrays = [batch.column("id"), pa.array(p[:, 0]), pa.nulls(len(p), pa.string())]
            yield pa.RecordBatch.from_arrays(arrays, names=["id", "p", "error"])


def predict_batch_udf(spark: Any, rows: Path, model: str) -> None:
    """Spark ML's own function over an array column."""
    from pyspark.ml.functions import predict_batch_udf as make
    from pyspark.sql import functions as F
    from pyspark.sql.types import FloatType

    udf = make(_Predict(model), return_type=FloatType(), batch_size=BATCH, input_tensor_shapes=[[30]])
    frame = spark.read.parquet(str(rows)).select("id", F.array(*COLUMNS).alias("x"))
    _noop(frame.select("id", udf("x").alias("p"), F.lit(None).cast("string").alias("error")))


class _Predict:
    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self) -> Any:
        run = session(self.model).run
        return lambda x: run(["p"], {"x": np.ascontiguousarray(x, np.float32)})[0][:, 0]


def mlflow_spark_udf(spark: Any, rows: Path, model: str) -> None:
    """MLflow's ONNX flavour as a UDF over a struct of columns."""
    import mlflow.pyfunc
    from pyspark.sql import functions as F

    udf = mlflow.pyfunc.spark_udf(spark, _mlflow_model(model), result_type="float", env_manager="local")
    frame = spark.read.parquet(str(rows))
    _noop(frame.select("id", udf(F.struct(*COLUMNS)).alias("p"), F.lit(None).cast("string").alias("error")))


def _mlflow_model(model: str) -> str:
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    folder = Path(model).with_suffix(".mlflow")
    if not folder.exists():
        signature = ModelSignature(
            inputs=Schema([ColSpec("float", c) for c in COLUMNS]), outputs=Schema([ColSpec("float", "p")])
        )
        mlflow.onnx.save_model(onnx.load(model), str(folder), signature=signature)
    return str(folder)


def whole_run(spark: Any, rows: Path, model: str) -> None:
    """A batch run: addresses, one Delta commit a unit, proof, ledger, quarantine."""
    import sparkscore as ss

    shutil.rmtree(rows.parent / "out", ignore_errors=True)
    ss.Pipeline.load(_document(rows, model)).run(spark)


def _document(rows: Path, model: str) -> dict[str, Any]:
    out = rows.parent / "out"
    return {
        "version": 1,
        "name": "bench",
        "source": {"format": "parquet", "location": str(rows)},
        "model": {"uri": model},
        "inputs": {"x": COLUMNS},
        "outputs": {"p": "p[:, 0]"},
        "keys": ["id"],
        "sink": {"format": "delta", "location": str(out / "scores")},
        "ledger": str(out / "ledger"),
    }


def _noop(frame: Any) -> None:
    frame.write.format("noop").mode("overwrite").save()


ARMS = {
    "raw loop, one process": raw,
    "sparkscore fused scan": fused,
    "sparkscore ss.score": sparkscore,
    "plain mapInArrow": plain,
    "predict_batch_udf": predict_batch_udf,
    "MLflow spark_udf": mlflow_spark_udf,
    "sparkscore whole run into Delta": whole_run,
}
