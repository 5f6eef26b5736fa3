"""The ways to score a Spark frame, each as its best user would write it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.job import Job, Scores, as_arrow
from benchmarks.workload import Workload

_SQL = {"p": "float", "width": "bigint", "tokens": "bigint"}


def sparkscore(spark: Any, job: Job, **options: Any) -> None:
    """`ss.score`: null, infinity and output checks, an error struct, row isolation."""
    import sparkscore as ss

    of = job.of
    results = {name: f"{output}[:, 0]" for name, output in of.results.items()}
    read = spark.read.parquet(job.folder)
    _sink(ss.score(read, job.model, of.inputs(job.model), results, keep=["id"], **options), job)


def lean(spark: Any, job: Job) -> None:
    """The same; the workers of a node hold one copy of the weights."""
    sparkscore(spark, job, weights="lean")


def fused(spark: Any, job: Job) -> None:
    """The scan of a run with `scan: fused`, by the scorer and the columns of `ss.score`; no commit and no proof.

    It plans once an input: what a plan costs differs more from run to run than a scan of a million rows. Tiny files are
    about nothing else, so there each run plans.
    """
    if job.workload == "S1":
        _fused_frame.cache_clear()
    _sink(plan_fused(spark, job), job)


def plan_fused(spark: Any, job: Job) -> Any:
    """Plan, and give the frame, whatever the sink is."""
    return _fused_frame(spark, replace(job, out=None))


@cache
def _fused_frame(spark: Any, job: Job) -> Any:
    import sparkscore as ss
    from sparkscore.run.planning import bound, make_plan
    from sparkscore.run.scan import choose, cores_of, cut_tasks
    from sparkscore.scoring.scorer import result_schema
    from sparkscore.scoring.verdicts import ERR_TYPE
    from sparkscore.spark import udfs
    from sparkscore.spark.carriers import FrameTask, FusedTask
    from sparkscore.spark.schemas import spark_schema

    bench = bound(spark, ss.Pipeline.load({**document(job), "scan": "fused"}).spec)
    plan = make_plan(spark, bench, "bench")
    scan = choose(spark, bench, plan).scan
    assert scan is not None, "scan: fused gives a scan or raises"
    shown = pa.struct([ERR_TYPE.field(name) for name in ("error_code", "error_message")])
    schema = result_schema(bench.scoring, scan.batch_schema)
    schema = schema.set(schema.get_field_index("err"), pa.field("err", shown))
    tasks = cut_tasks(spark, [file for unit in plan.units for file in unit.files], cores_of(spark))
    return udfs.fused_frame(spark, FusedTask(scan, tasks, FrameTask(bench.scoring, shown)), spark_schema(schema))


def whole_run(spark: Any, job: Job) -> None:
    """A batch run: addresses, one Delta commit a unit, proof, ledger, quarantine."""
    import sparkscore as ss

    shutil.rmtree(_run(job), ignore_errors=True)
    ss.Pipeline.load(document(job)).run(spark)
    if job.out is not None:
        spark.read.format("delta").load(f"{_run(job)}/scores").write.parquet(job.out)


def document(job: Job) -> dict[str, Any]:
    """Give the pipeline of a job."""
    return {
        "version": 1,
        "name": "bench",
        "source": {"format": "parquet", "location": job.folder},
        "model": {"uri": job.model},
        "inputs": job.of.inputs(job.model),
        "outputs": {name: f"{output}[:, 0]" for name, output in job.of.results.items()},
        "keys": ["id"],
        "sink": {"format": "delta", "location": f"{_run(job)}/scores"},
        "ledger": f"{_run(job)}/ledger",
    }


def plain(spark: Any, job: Job) -> None:
    """`mapInArrow` by hand."""
    _sink(_plain_frame(spark, job), job)


def plain_into_delta(spark: Any, job: Job) -> None:
    """The same, written to Delta."""
    shutil.rmtree(_delta(job), ignore_errors=True)
    _plain_frame(spark, job).write.format("delta").save(_delta(job))
    if job.out is not None:
        spark.read.format("delta").load(_delta(job)).write.parquet(job.out)


def _plain_frame(spark: Any, job: Job) -> Any:
    kinds = ", ".join(f"{name} {_SQL[name]}" for name in job.of.results)
    frame = spark.read.parquet(job.folder).select("id", *job.of.columns)
    return frame.mapInArrow(Scores(job).batches, f"id bigint, {kinds}, error string")


def arrow_udf(spark: Any, job: Job) -> None:
    """An iterator `arrow_udf` (Spark >= 4.1)."""
    from pyspark.sql.functions import arrow_udf as make

    _columns(spark, job, make(_annotated(_arrow_function(job), pa.Array, pa.Array, job), _result_type(job.of)))


def pandas_udf(spark: Any, job: Job) -> None:
    """An iterator `pandas_udf`."""
    import pandas as pd
    from pyspark.sql.functions import pandas_udf as make

    result = pd.Series if len(job.of.results) == 1 else pd.DataFrame
    _columns(spark, job, make(_annotated(_pandas_function(job), pd.Series, result, job), _result_type(job.of)))


def _arrow_function(job: Job) -> Any:
    scores, names = Scores(job), list(job.of.results)

    def score(columns: Any) -> Any:
        for arrays in columns:
            found = [pa.array(a) for a in scores([arrays] if isinstance(arrays, pa.Array) else arrays)]
            yield found[0] if len(names) == 1 else pa.StructArray.from_arrays(found, names)

    return score


def _pandas_function(job: Job) -> Any:
    import pandas as pd

    scores, names = Scores(job), list(job.of.results)

    def score(columns: Any) -> Any:
        for series in columns:
            found = scores([series] if isinstance(series, pd.Series) else series)
            yield pd.Series(found[0]) if len(names) == 1 else pd.DataFrame(dict(zip(names, found, strict=True)))

    return score


def _annotated(function: Any, given: Any, result: Any, job: Job) -> Any:
    """Say what the function takes: Spark reads its form from the annotations."""
    many = given if len(job.of.columns) == 1 else tuple[given, ...]
    function.__annotations__ = {"columns": Iterator[many], "return": Iterator[result]}
    return function


def _result_type(of: Workload) -> Any:
    from pyspark.sql import types as T

    kinds = {"float": T.FloatType(), "bigint": T.LongType()}
    fields = [T.StructField(name, kinds[_SQL[name]]) for name in of.results]
    return fields[0].dataType if len(fields) == 1 else T.StructType(fields)


def _columns(spark: Any, job: Job, udf: Any, given: Any = None) -> None:
    """Score by a column function, and write."""
    from pyspark.sql import functions as F

    scored = udf(*(given or job.of.columns))
    error = F.lit(None).cast("string").alias("error")
    frame = spark.read.parquet(job.folder)
    if len(job.of.results) == 1:
        _sink(frame.select("id", scored.alias("p"), error), job)
    else:
        _sink(frame.select("id", scored.alias("s")).select("id", "s.*", error), job)


def predict_batch_udf(spark: Any, job: Job) -> None:
    """Spark ML's own function, with columns of one type as an array; its batch is one of Arrow's."""
    from pyspark.ml.functions import predict_batch_udf as make
    from pyspark.sql import functions as F

    tensors, shapes = job.of.tensors()
    given = [F.array(*names) if len(names) > 1 else F.col(names[0]) for names in tensors]
    udf = make(
        partial(_predictor, job, len(given)),
        return_type=_result_type(job.of),
        batch_size=10_000,
        input_tensor_shapes=shapes,
    )
    _columns(spark, job, udf, given)


def _predictor(job: Job, tensors: int) -> Any:
    """Give the function; Spark counts its parameters."""
    score = partial(_predicted, job)
    return (lambda a: score(a)) if tensors == 1 else (lambda a, b: score(a, b))


def _predicted(job: Job, *tensors: np.ndarray) -> Any:
    found = job.of.scores_of_tensors(tensors, job.model)
    return found[0] if len(found) == 1 else dict(zip(job.of.results, found, strict=True))


def mlflow_spark_udf(spark: Any, job: Job) -> None:
    """MLflow's UDF over a struct of columns: its ONNX flavour for numbers alone, a `PythonModel` for the rest."""
    import mlflow.pyfunc
    from pyspark.sql import functions as F

    result = "float" if len(job.of.results) == 1 else ", ".join(f"{name} {_SQL[name]}" for name in job.of.results)
    udf = mlflow.pyfunc.spark_udf(spark, _mlflow_model(job), result_type=result, env_manager="local")
    _columns(spark, job, udf, [F.struct(*job.of.columns)])


def _mlflow_model(job: Job) -> str:
    from mlflow import onnx as flavour
    from mlflow import pyfunc

    folder = Path(job.model).parent / f"mlflow-{job.arrival}"
    if folder.exists():
        return str(folder)
    if job.of.inputs(job.model) != {"x": job.of.columns}:
        pyfunc.save_model(str(folder), python_model=_python_model(job), pip_requirements=[])
        return str(folder)
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("float", name) for name in job.of.columns])
    signature = ModelSignature(inputs, Schema([ColSpec("float", "p")]))
    threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    model = onnx.load(job.model)
    flavour.save_model(model, str(folder), signature=signature, onnx_session_options=threads, pip_requirements=[])
    return str(folder)


def _python_model(job: Job) -> Any:
    from mlflow.pyfunc import PythonModel

    class Model(PythonModel):
        def predict(self, context: Any, frame: Any, params: Any = None) -> Any:
            import pandas as pd

            found = Scores(job)([as_arrow(frame[name]) for name in job.of.columns])
            return pd.DataFrame(dict(zip(job.of.results, found, strict=True)))

    return Model()


def _run(job: Job) -> str:
    return f"{job.folder}-run"


def _delta(job: Job) -> str:
    return f"{job.folder}-delta"


def _sink(frame: Any, job: Job) -> None:
    if job.out is None:
        frame.write.format("noop").mode("overwrite").save()
    else:
        frame.select("id", *job.of.results).write.parquet(job.out)
