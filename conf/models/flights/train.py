"""Trains the demo's model on the flights of 2013 and writes model.onnx and golden.json.

Run it with ``python conf/models/flights/train.py DATA [OUT]``; DATA is the folder of the two files that
`sparkscore.demo.download` brings, OUT is this folder unless given. It needs ``pip install 'sparkscore[convert]'``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from sparkscore.demo import download

HERE = Path(__file__).parent
NUMBERS = ("dep_delay", "hour", "distance", "temp", "visib", "wind_speed", "precip")
CARRIERS = (HERE / "carriers.txt").read_text().split()
ORIGINS = ["EWR", "JFK", "LGA"]
LATE_MINUTES = 15
GOLDEN_ROWS = 12


def flights(data: Path) -> pa.Table:
    """Read the flights that arrived, each with the weather of its hour, in the order of the file."""
    convert = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    rows, weather = (pyarrow.csv.read_csv(path, convert_options=convert) for path in download(data))
    rows = rows.append_column("position", pa.array(np.arange(len(rows))))
    weather = weather.select(["origin", "time_hour", *NUMBERS[3:]])
    joined = rows.join(weather, ["origin", "time_hour"]).sort_by("position")
    return joined.filter(pa.compute.is_valid(joined["arr_delay"]))


def features(rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Give what the trees see, float32 (n, 26): the numbers (NaN is missing), then one-hot carrier and origin."""
    numbers = [rows[name].to_numpy().astype(np.float32) for name in NUMBERS]
    one_hot = [
        (rows[name].to_numpy() == value).astype(np.float32)
        for name, values in (("carrier", CARRIERS), ("origin", ORIGINS))
        for value in values
    ]
    return np.stack([*numbers, *one_hot], axis=1)


def tree_attributes(model: HistGradientBoostingClassifier) -> dict[str, list[Any]]:
    """Write the fitted trees as attributes of an ONNX TreeEnsembleRegressor that gives the logit."""
    out: dict[str, list[Any]] = {f"nodes_{name}": [] for name in _NODE_FIELDS}
    out |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(model._predictors):
        for number, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            values = (
                tree,
                number,
                0 if leaf else int(node["feature_idx"]),
                0.0 if leaf else floor_float32(float(node["num_threshold"])),
                "LEAF" if leaf else "BRANCH_LEQ",
                0 if leaf else int(node["left"]),
                0 if leaf else int(node["right"]),
                0 if leaf else int(node["missing_go_to_left"]),
            )
            for name, value in zip(_NODE_FIELDS, values, strict=True):
                out[f"nodes_{name}"].append(value)
            if leaf:
                for name, value in zip(("treeids", "nodeids", "ids"), (tree, number, 0), strict=True):
                    out[f"target_{name}"].append(value)
                out["target_weights"].append(float(node["value"]))
    return out


_NODE_FIELDS = (
    "treeids",
    "nodeids",
    "featureids",
    "values",
    "modes",
    "truenodeids",
    "falsenodeids",
    "missing_value_tracks_true",
)


def floor_float32(threshold: float) -> float:
    """Give the largest float32 that is not above a threshold: for float32 x, ``x <= threshold`` stays as it was."""
    nearest = np.float32(threshold)
    return float(np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > threshold else nearest)


def graph(model: HistGradientBoostingClassifier) -> onnx.ModelProto:
    """Build the graph: numbers, carrier and origin in; label and probabilities out, both plain tensors."""
    node = helper.make_node
    trees: dict[str, Any] = {
        **tree_attributes(model),
        "base_values": [float(model._baseline_prediction[0, 0])],
        "n_targets": 1,
        "post_transform": "NONE",
    }
    nodes = [
        node("OneHot", ["carrier", "carriers", "off_on"], ["carrier_hot"]),
        node("OneHot", ["origin", "origins", "off_on"], ["origin_hot"]),
        node("Concat", ["numbers", "carrier_hot", "origin_hot"], ["x"], axis=1),
        node("TreeEnsembleRegressor", ["x"], ["logit"], domain="ai.onnx.ml", **trees),
        node("Sigmoid", ["logit"], ["late"]),
        node("Sub", ["one", "late"], ["on_time"]),
        node("Concat", ["on_time", "late"], ["probabilities"], axis=1),
        node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    built = helper.make_graph(
        nodes,
        "flights",
        [
            value("numbers", TensorProto.FLOAT, ["n", len(NUMBERS)]),
            value("carrier", TensorProto.INT64, ["n"]),
            value("origin", TensorProto.INT64, ["n"]),
        ],
        [value("label", TensorProto.INT64, ["n"]), value("probabilities", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor("carriers", TensorProto.INT64, [1], [len(CARRIERS)]),
            helper.make_tensor("origins", TensorProto.INT64, [1], [len(ORIGINS)]),
            helper.make_tensor("off_on", TensorProto.FLOAT, [2], [0.0, 1.0]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(built, opset_imports=opsets, ir_version=8, producer_name="sparkscore")
    onnx.checker.check_model(proto)
    return proto


def golden(rows: pa.Table, late: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Choose rows of every kind, as the source holds them (null weather stays null), with scikit-learn's answers."""
    columns = [*NUMBERS, "carrier", "origin"]
    no_weather = np.flatnonzero(rows["visib"].is_null().to_numpy())[:2]
    no_wind = rows["wind_speed"].is_null().to_numpy() & rows["visib"].is_valid().to_numpy()
    spread = np.argsort(late, kind="stable")[np.linspace(0, len(late) - 1, GOLDEN_ROWS - 3).astype(int)]
    chosen = np.concatenate([no_weather, np.flatnonzero(no_wind)[:1], spread])
    lines = ",\n  ".join(json.dumps(row) for row in rows.select(columns).take(chosen).to_pylist())
    scores = json.dumps([round(float(p), 7) for p in late[chosen]])
    return f"""{{
 "rows": [
  {lines}
 ],
 "outputs": {{"p_late": {scores}}},
 "rtol": 1e-4,
 "atol": 1e-5
}}
"""


def main(data: Path, out: Path = HERE) -> None:
    """Train on four days of five, judge on every fifth, write the two files into a folder."""
    rows = flights(data)
    x, late = features(rows), rows["arr_delay"].to_numpy() >= LATE_MINUTES
    held_out = rows["day"].to_numpy() % 5 == 0
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.12, max_leaf_nodes=15, min_samples_leaf=200, early_stopping=False, random_state=7
    )
    model.fit(x[~held_out], late[~held_out])
    p = model.predict_proba(x[held_out])[:, 1]
    print(f"rows {len(rows)}, held out {held_out.sum()}, late {late.mean():.4f}")
    judged = [roc_auc_score(late[held_out], score) for score in (p, x[held_out, 0])]
    print(f"AUC {judged[0]:.4f}; by dep_delay alone {judged[1]:.4f}")
    (out / "model.onnx").write_bytes(graph(model).SerializeToString(deterministic=True))
    (out / "golden.json").write_text(golden(rows.filter(pa.array(held_out)), p))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
