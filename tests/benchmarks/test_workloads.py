"""Our scorer gives the scores of the raw loop, and so does the loop however an engine hands it the columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import loops, quick
from benchmarks.engines import _from_numpy
from benchmarks.job import WORKLOADS, Job, Scores
from benchmarks.runs import difference, results_of
from benchmarks.text import N1Arrival

ROWS = {"T1 pyarrow": 500, "T2": 60, "T3 array": 50, "T3 binary": 50, "N1": 40, "V1": 6}


@pytest.fixture(scope="module", params=ROWS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    of, folder = WORKLOADS[request.param], tmp_path_factory.mktemp("bench")
    rows = of.write(folder / "rows", ROWS[request.param])
    return Job(of.name, str(rows), str(of.write_model(folder / "model")), str(folder / "out"))


def test_our_scorer_gives_the_scores_of_the_raw_loop(job: Job) -> None:
    loops.raw(None, job)
    expected = results_of(Path(str(job.out)))

    scored = pa.Table.from_batches(quick.ours(job)())

    assert scored["err"].null_count == ROWS[job.workload]
    ours = {"id": scored["id"].to_numpy(), "p": scored["p"].to_numpy()}
    most = 2e-4 if job.workload == "V1" else 1e-6  # of images, decoders and resizers may round a pixel the other way
    assert difference(ours, expected) <= most  # type: ignore[operator]
    assert np.ptp(expected["p"]) > 0, "the model tells rows apart"


def test_every_way_to_hand_over_the_columns_gives_the_same_scores(job: Job) -> None:
    table = pa.concat_tables(map(pq.read_table, job.files))
    scores, names = Scores(job), job.of.columns
    (expected, *_) = scores([table[name] for name in names])

    wide = [_widened(table[name]) for name in names]  # as Daft has them
    frame = table.select(names).to_pandas()
    by_numpy = [_from_numpy(frame[name].to_numpy()) for name in names]  # as Ray has them
    for columns in (wide, [frame[name] for name in names], by_numpy):
        np.testing.assert_array_equal(scores(columns)[0], expected)


def test_arrays_as_predict_batch_udf_builds_them_give_the_same_scores(job: Job) -> None:
    frame = pa.concat_tables(map(pq.read_table, job.files)).to_pandas()
    groups, shapes = job.of.tensors()
    tensors = [np.stack([frame[name] for name in names], axis=1) for names in groups]
    tensors = [np.stack(t[:, 0]) if t.dtype == object and shapes and t.shape[1] == 1 else t for t in tensors]
    tensors = tensors if shapes else [t[:, 0] for t in tensors]

    found = job.of.scores_of_tensors(tensors, job.model)[0]

    np.testing.assert_array_equal(found, Scores(job)([frame[name] for name in job.of.columns])[0])


def _widened(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kinds = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    if pa.types.is_list(column.type):
        return column.cast(pa.large_list(column.type.value_type))
    return column.cast(kinds.get(column.type, column.type))


def test_sorted_texts_are_scored_as_they_are_in_order_of_arrival(tmp_path: Path) -> None:
    of = WORKLOADS["N1"]
    model = str(of.write_model(tmp_path))
    texts = [pa.array(of.table(np.random.default_rng(0), 200)["text"])]

    p, width, tokens = of.scores(texts, model)
    in_order = N1Arrival().scores(texts, model)

    np.testing.assert_allclose(p, in_order[0], atol=1e-6)
    np.testing.assert_array_equal(tokens, in_order[2])
    assert width.sum() / tokens.sum() < 1.25 < 2 < in_order[1].sum() / in_order[2].sum()


def test_t2_has_trees_of_63_leaves_and_columns_with_holes(tmp_path: Path) -> None:
    import onnx

    of = WORKLOADS["T2"]
    attributes = {a.name: a for a in onnx.load(str(of.write_model(tmp_path))).graph.node[0].attribute}
    assert list(attributes["nodes_modes"].strings).count(b"LEAF") == 500 * 63
    table = pa.table(of.table(np.random.default_rng(0), 1000))
    assert table.num_columns == 200
    assert {table[name].null_count > 0 for name in of.columns if name[0] in "fs"} == {True}
