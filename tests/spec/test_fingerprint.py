"""The fingerprint changes with what decides a row or its address, and with nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sparkscore.spec.fingerprint import fingerprint
from sparkscore.spec.pipeline import load_pipeline

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "name": "fraud",
    "source": {"format": "parquet", "location": "/in"},
    "prepare": [{"with": {"b": "a + 1", "c": "b + 1"}}],
    "model": {"uri": "/m"},
    "inputs": {"x": ["b"], "y": "c"},
    "outputs": {"p": "probabilities[:, 1]"},
    "sink": {"format": "delta", "location": "/out"},
}


def digest(**sets: str) -> str:
    return fingerprint(load_pipeline(copy.deepcopy(DOCUMENT), {k.replace("__", "."): v for k, v in sets.items()}))


def test_it_is_a_sha256_and_the_same_each_time() -> None:
    assert digest() == digest()
    assert len(bytes.fromhex(digest())) == 32


def test_it_changes_with_the_precision() -> None:
    on_gpu = "{{uri: /m, device: tensorrt, golden: /g, precision: {}}}"
    assert len({digest(model=on_gpu.format(name)) for name in ("as_is", "tf32", "fp16")}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"source__where": "a > 0"},
        {"source__location": "/other"},
        {"prepare": "[{where: a > 0}]"},
        {"prepare__0__with": "{c: b + 1, b: a + 1}"},
        {"model__uri": "/m2"},
        {"model__device": "auto"},
        {"model__batch_size": "1"},
        {"model__weights": "lean"},
        {"inputs__y": "[c]"},
        {"inputs__x": "{columns: [b], null: nan}"},
        {"outputs__p": "'probabilities[:, 0]'"},
        {"missing": "{null: nan}"},
        {"keys": "[a]"},
        {"keep": "all"},
        {"sink__location": "/out2"},
        {"sink__provenance": "full"},
        {"ledger": "/elsewhere"},
    ],
    ids=str,
)
def test_it_changes_with_what_decides_a_row_or_its_address(change: dict[str, str]) -> None:
    assert digest(**change) != digest()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"on_error": "{max_fraction: 0.5}"},
        {"quarantine": "{payload: none}"},
        {"scan": "map_in_arrow"},
        {"model__batch_size": "64"},
        {"model__batch_size": "auto"},
        {"model__providers": "{CUDAExecutionProvider: {gpu_mem_limit: 1}}"},
        {"model__device": "cpu"},
        {"inputs": "{y: {column: c}, x: {columns: [b]}}"},
        {"outputs__p": "{index: '[:, 1]', output: probabilities}"},
        {"missing": "{null: error}"},
        {"ledger": "/out_ledger"},
    ],
    ids=str,
)
def test_it_stays_with_what_an_attempt_may_change_or_what_says_the_same(change: dict[str, str]) -> None:
    assert digest(**change) == digest()


def test_where_a_secret_is_found_does_not_change_it() -> None:
    options = {"url": "jdbc:x://h/d", "dbtable": "t"}
    found = {
        fingerprint(load_pipeline({**DOCUMENT, "source": {"format": "jdbc", "options": options, **credentials}}))
        for credentials in ({}, {"credentials": {"password": "env:A"}}, {"credentials": {"password": "env:B"}})
    }
    assert len(found) == 1


def test_it_is_taken_after_variables() -> None:
    document = {**DOCUMENT, "source": {"format": "parquet", "location": "${place}"}}
    assert fingerprint(load_pipeline(document, {"place": "/in"})) == digest()


def test_it_does_not_move_between_releases() -> None:
    assert digest() == "9cd1a52790da64979bc0cd62d4b01e0437530239f2654a0d3c5df2ec79e07691"
