"""No secret passes into a pipeline, whatever it is called, and none is repeated; harmless names and URIs pass."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError, SpecError
from sparkscore.runtime.models import pin
from sparkscore.spec.fields import carries_secret
from tests.spec.test_pipeline import load

CANARY = "ca/na+ry"
URIS = [
    f"s3a://AKIA:{CANARY}@bucket/m.onnx",
    f"s3://AKIA:123/{CANARY}@bucket/m.onnx",
    f"https://me:{CANARY}@host:8080/m.onnx",
    f"hdfs://:{CANARY}@nn/m",
    f"jdbc:oracle:thin:AKIA/{CANARY}@//host:1521/service",
    f"jdbc:postgresql://host/db?user=AKIA&password={CANARY}",
    f"https://host/m?sig={CANARY}",
    f"https://host/m?a=1&access_token={CANARY}",
    f"https://host/m?X-Amz-Signature={CANARY}",
    f"abfss://c@a.dfs.core.windows.net/m?sas={CANARY}",
]
OPTIONS = [
    "fs.azure.account.key.x.dfs.core.windows.net",
    "fs.azure.sas.container.account",
    "SAS",
    "sslPassPhrase",
    "private_key",
    "pem-private-key",
    "sfPrivateKey",
    "client-secret",
    "client.secret",
    "clientSecret",
    "oauth_token",
    "awsSecretAccessKey",
    "access-key",
    "fs.s3a.server-side-encryption.key",
    "ssl.keystore.pass",
    "X_API_KEY",
]


def places(secret: Any) -> list[dict[str, Any]]:
    """Keys of a pipeline with a text in each place that holds a URI, and where a text is wrong."""
    source, sink = {"format": "parquet"}, {"format": "delta"}
    category = {"category": "c", "vocabulary": secret}
    return [
        {"source": {**source, "location": secret}},
        {"source": {**source, "location": ["/in", secret]}},
        {"source": {**source, "location": "/in", "options": {"url": secret}}},
        {"model": {"uri": secret}},
        {"model": {"uri": "/m", "golden": secret}},
        {"inputs": {"x": {"text": "t", "tokenizer": secret}}},
        {"inputs": {"x": category}},
        {"outputs": {"y": {"output": "y", "then": ["argmax", {"labels": secret}]}}},
        {"sink": {**sink, "location": secret}},
        {"sink": {**sink, "location": "/out", "options": {"url": secret}}},
        {"quarantine": {"location": secret}},
        {"ledger": secret},
        {"source": secret},
        {"model": [secret]},
        {"scan": secret},
    ]


@pytest.mark.parametrize("uri", URIS)
def test_a_uri_with_a_credential_is_refused_everywhere_and_not_repeated(uri: str) -> None:
    for changes in places(uri):
        with pytest.raises(SpecError) as caught:
            load(**changes)
        assert "SPS-SPEC-" in str(caught.value)
        assert not re.search(r"ca/na|AKIA", f"{caught.value!s} {caught.value!r} {caught.value.context}"), changes


@pytest.mark.parametrize("uri", URIS)
def test_a_model_uri_with_a_credential_is_refused_without_a_pipeline_too(uri: str) -> None:
    with pytest.raises(SparkscoreError, match="SPS-SPEC-VALUE") as caught:
        pin(uri)
    assert "ca/na" not in str(caught.value)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("key", ["source", "sink"])
def test_an_option_whose_name_means_a_secret_is_refused_and_its_value_not_repeated(key: str, name: str) -> None:
    entry = {"format": "delta", "location": "/t", "options": {name: CANARY}}
    for changed in (entry, [entry]):  # the second is no mapping: what it is is shown
        with pytest.raises(SpecError) as caught:
            load(**{key: changed})
        assert CANARY not in f"{caught.value!s} {caught.value.context}"


@pytest.mark.parametrize("key", [CANARY, f"env:{CANARY}", "file:relative", 7, "", ["env:K"]])
def test_a_key_of_the_quarantine_is_given_by_its_name_alone_and_never_repeated(key: Any) -> None:
    with pytest.raises(SpecError, match=r"quarantine\.key") as caught:
        load(quarantine={"payload": "encrypted", "key": key})
    assert CANARY not in f"{caught.value!s} {caught.value!r}"
    with pytest.raises(SpecError, match=r"Key 'key' is missing.*openssl rand"):
        load(quarantine={"payload": "encrypted"})
    assert load(quarantine={"payload": "encrypted", "key": "env:K"}).quarantine.key == "env:K"


@pytest.mark.parametrize(
    "harmless",
    [
        "https://host:8080/a@b",
        "hdfs://nn:8020/lake/a:b@c/m.onnx",
        "s3://bucket/at=12:30/a@b.onnx",
        "file:///data/a:b@c.onnx",
        "abfss://container@account.dfs.core.windows.net/m",
        "models:/fraud@champion",
        "dbfs:/x:y@z",
        "/data/day=2026-11-24/key=a",
        "https://host/m?version=3&design=1",
    ],
)
def test_a_harmless_uri_is_no_secret(harmless: str) -> None:
    assert not carries_secret(harmless)
    assert load(model={"uri": harmless}).model.uri == harmless


def test_harmless_options_and_mappings_are_no_secret() -> None:
    options = {"sasl.mechanism": "PLAIN", "nullValue": "NA", "header": "true", "multiLine": "true", "bypass": "no"}
    assert load(sink={"format": "delta", "location": "/out", "options": options}).sink.options == options
    assert not carries_secret({"text": "t", "tokenizer": "t.json", "max_tokens": 5})
