"""The least policy of pipelines on S3, in part, and not at all, by their files alone."""

from __future__ import annotations

from typing import Any

import pytest

from sparkscore.run.doctor.iam import Role, places_elsewhere, policy
from sparkscore.spec.pipeline import load_pipeline
from tests.e2e.iam import needs, outside
from tests.e2e.scenario import document
from tests.faults import Request

READ = ["s3:GetObject", "s3:ListBucket"]
WRITE = ["s3:AbortMultipartUpload", *READ, "s3:PutObject"]
DISK: dict[str, Any] = {"sink": {"format": "delta", "location": "/out"}, "quarantine": {}, "ledger": "/ledger"}
DATABASE = {"format": "jdbc", "options": {"url": "jdbc:postgresql://h/d", "dbtable": "t"}}


def least(role: Role = "driver", root: str = "/here", **keys: Any) -> dict[str, tuple[list[str], list[str]]]:
    """The statements by Sid: actions and resources, without the part that all ARNs share."""
    found = policy(load_pipeline(document(root, **{**DISK, **keys})), role)
    assert found["Version"] == "2012-10-17"
    arns = {s["Sid"]: [arn.removeprefix("arn:aws:s3:::") for arn in s["Resource"]] for s in found["Statement"]}
    assert [s["Effect"] for s in found["Statement"]] == ["Allow"] * len(arns)
    return {s["Sid"]: (s["Action"], arns[s["Sid"]]) for s in found["Statement"]}


def test_the_driver_reads_input_and_model_and_writes_sink_quarantine_and_ledger() -> None:
    quarantine, sink = {"location": "s3://bad/b"}, {"format": "delta", "location": "s3a://lake/team/out/"}
    found = least(root="s3a://data/x", sink=sink, quarantine=quarantine, ledger="s3a://ops/ledger")
    assert found == {
        "ReadInput": (READ, ["data", "data/x/in", "data/x/in/*"]),
        "ReadModel": (READ, ["data", "data/x/labels.txt", "data/x/linear.onnx*"]),
        "WriteSink": (WRITE, ["lake", "lake/team/out/*"]),
        "WriteQuarantine": (WRITE, ["bad", "bad/b/*"]),
        "WriteLedger": (WRITE, ["ops", "ops/ledger/*"]),
        "ProbeNames": (
            ["s3:GetObject"],
            [
                *("bad/_delta_log", "bad/b", "lake/_delta_log", "lake/team", "lake/team/_delta_log", "lake/team/out"),
                *("ops/_delta_log", "ops/ledger"),
            ],
        ),
        "DeleteTemporary": (
            ["s3:DeleteObject"],
            [
                *("bad/b/_delta_log/.*.tmp", "lake/team/out/_delta_log/.*.tmp"),
                *("ops/ledger/estimates/*", "ops/ledger/tables/*/_delta_log/.*.tmp"),
            ],
        ),
    }


def test_executors_write_receipts_and_evidence_and_the_rows_of_the_ledgers_tables_and_delete_nothing() -> None:
    found = least("executor", ledger="s3a://ops/ledger")
    assert found == {
        "WriteLedger": (
            ["s3:AbortMultipartUpload", "s3:PutObject"],
            ["ops/ledger/evidence/*", "ops/ledger/receipts/*"],
        ),
        "WriteLedgerRows": (WRITE, ["ops", "ops/ledger/estimates/*", "ops/ledger/tables/*"]),
    }


def test_places_that_are_not_on_s3_have_no_statement() -> None:
    assert least() == least("executor") == {}
    found = least(root="hdfs://n:8020/x", sink={"format": "delta", "location": "s3a://lake/out"})
    assert list(found) == ["WriteSink", "ProbeNames", "DeleteTemporary"]


def test_a_sink_of_files_has_only_what_its_committer_left_deleted() -> None:
    sink = {"format": "parquet", "location": "s3a://lake/out"}
    deleted = (["s3:DeleteObject"], ["lake/out/_stage/*/_temporary/*"])
    assert least(sink=sink)["DeleteTemporary"] == least("executor", sink=sink)["DeleteTemporary"] == deleted


def test_the_stage_of_an_atomic_sink_is_swept_by_the_driver() -> None:
    sink = {"format": "delta", "location": "s3a://lake/out", "publish": "atomic"}
    assert least(sink=sink)["DeleteTemporary"][1] == ["lake/out/_delta_log/.*.tmp", "lake/out/_stage/*"]
    assert least("executor", sink=sink)["DeleteTemporary"][1] == ["lake/out/_stage/*/_temporary/*"]


def test_the_stage_of_a_catalogs_table_is_in_the_ledger_and_its_place_is_told_to_be_unknown() -> None:
    keys = {"sink": {"format": "delta", "table": "lake.scores", "publish": "atomic"}, "ledger": "s3a://ops/l"}
    assert "ops/l/_stage/*" in least("executor", **keys)["WriteLedgerRows"][1]
    assert "ops/l/_stage/*" in least(**keys)["DeleteTemporary"][1]
    assert "WriteSink" not in least(**keys)
    keys["model"] = {"uri": "models:/fraud@champion"}
    told = places_elsewhere(load_pipeline(document("/here", source={"table": "lake.tx"}, **keys)))
    assert [line.partition(":")[0] for line in told] == [
        *("source.table lake.tx", "sink.table lake.scores", "model.uri models"),
    ]


def test_a_source_without_files_is_copied_to_the_ledger_whose_copies_the_driver_removes() -> None:
    keys = {"source": DATABASE, "ledger": "s3a://ops/l"}
    assert "ops/l/inputs/*" in least(**keys)["DeleteTemporary"][1]
    assert "ops/l/inputs/*" in least("executor", **keys)["WriteLedgerRows"][1]
    assert least("executor", **keys)["DeleteTemporary"][1] == ["ops/l/inputs/*/_temporary/*"]


def test_another_format_of_spark_is_staged_in_the_ledger_and_written_by_sparks_committer() -> None:
    keys = {"sink": {"format": "xml", "location": "s3a://lake/out"}, "ledger": "s3a://ops/l"}
    assert least(**keys)["WriteSink"][1] == ["lake", "lake/out/*"]
    assert least("executor", **keys)["DeleteTemporary"][1] == ["lake/out/_temporary/*", "ops/l/_stage/*/_temporary/*"]


@pytest.mark.parametrize(
    ("location", "resources"),
    [
        ("s3a://lake", ["lake", "lake/*"]),
        ("s3a://lake/in/", ["lake", "lake/in", "lake/in/*"]),
        ("s3a://lake/in/day=2026-*/x", ["lake", "lake/in", "lake/in/day=2026-*"]),
        ("s3a://lake/{a,b}", ["lake", "lake/*"]),
        ("s3a://lake/a$b", ["lake", "lake/a${$}b", "lake/a${$}b/*"]),
    ],
)
def test_a_source_may_be_a_bucket_a_folder_or_a_pattern(location: str, resources: list[str]) -> None:
    assert least(source={"format": "parquet", "location": location})["ReadInput"] == (READ, resources)


def test_a_model_may_be_a_folder_and_the_driver_alone_reads_golden_rows() -> None:
    model = {"uri": "s3a://models/fraud/7", "golden": "s3a://models/golden.json"}
    folder = ["models", "models/fraud/7", "models/fraud/7/*"]
    assert least(model=model)["ReadModel"][1] == [*folder, "models/golden.json"]
    assert least("executor", model=model)["ReadModel"][1] == folder


def test_what_judges_requests_reads_a_policy_as_iam_does() -> None:
    statement = {"Sid": "A", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b/a${*}/*.x"]}
    asked = ["/b/a*/c/d.x", "/b/a%2A/.x", "/b/ab/c.x", "/b/a*/c.y", "/b/a*/c.x?acl", "/b?list-type=2", "/b?acl"]
    got = outside({"Statement": [statement]}, [Request("GET", path, "", b"") for path in asked])
    assert got == [
        ("s3:GetObject", "arn:aws:s3:::b/a*/c.y"),
        ("s3:GetObject", "arn:aws:s3:::b/ab/c.x"),
        ("s3:ListBucket", "arn:aws:s3:::b"),
        ("unknown: GET with acl", "arn:aws:s3:::b"),
        ("unknown: GET with acl", "arn:aws:s3:::b/a*/c.x"),
    ]
    bulk = b'<Delete xmlns="x"><Object><Key>k/1</Key></Object><Object><Key>k/2</Key></Object></Delete>'
    assert needs(Request("POST", "/b?delete", "", bulk)) == {
        ("s3:DeleteObject", "arn:aws:s3:::b/k/1"),
        ("s3:DeleteObject", "arn:aws:s3:::b/k/2"),
    }
    assert needs(Request("PUT", "/b/k", "/b/from%3Da", b"")) == {
        ("s3:PutObject", "arn:aws:s3:::b/k"),
        ("s3:GetObject", "arn:aws:s3:::b/from=a"),
    }
    assert needs(Request("DELETE", "/b/k?uploadId=1", "", b"")) == {("s3:AbortMultipartUpload", "arn:aws:s3:::b/k")}
