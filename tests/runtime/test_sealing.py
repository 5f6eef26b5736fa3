"""A sealed payload opens by its own key, for its own row, and in no other way; no message holds a key."""

from __future__ import annotations

import base64
from pathlib import Path

import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.redaction import redacted
from sparkscore.runtime.sealing import MARK, Opener, new_key, open_sealed, q_id, seal, unwrapped, user_key, wrapped

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def test_a_payload_opens_by_its_key_for_its_row() -> None:
    sealed = seal(KEY, b'{"a":1}', "row")
    assert sealed.startswith(MARK)
    assert sealed != seal(KEY, b'{"a":1}', "row")  # a nonce of its own each
    assert open_sealed(KEY, sealed, "row") == b'{"a":1}'
    assert open_sealed(KEY, b'{"a":1}', "row") == b'{"a":1}'  # one that was kept in clear


@pytest.mark.parametrize("kind", ["another key", "another row", "a changed byte", "cut"])
def test_it_opens_in_no_other_way(kind: str) -> None:
    sealed = seal(KEY, b"secret", "row")
    key = new_key() if kind == "another key" else KEY
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1]) if kind == "a changed byte" else sealed
    with pytest.raises(SparkscoreError, match="SPS-ENV-KEY") as caught:
        open_sealed(key, changed[:20] if kind == "cut" else changed, "other" if kind == "another row" else "row")
    assert (caught.value.exit_code, "secret" in str(caught.value)) == (4, False)


def test_a_runs_key_opens_by_the_users_and_for_that_run_alone() -> None:
    key = new_key()
    assert unwrapped(wrapped(key, "r1", KEY), "r1", KEY) == key
    for run_id, by in (("r2", KEY), ("r1", new_key())):
        with pytest.raises(SparkscoreError, match=r"SPS-ENV-KEY.*another one"):
            unwrapped(wrapped(key, "r1", KEY), run_id, by)


def test_the_users_key_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", f" {TEXT}\n")
    (tmp_path / "k").write_text(TEXT)
    assert user_key("env:K") == user_key(f"file:{tmp_path / 'k'}") == KEY


@pytest.mark.parametrize("value", [None, "not base64!", "é", "c2hvcnQ=", ""])
def test_a_key_that_is_no_key_is_refused_and_not_repeated(value: str | None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("K", raising=False)
    if value is not None:
        monkeypatch.setenv("K", value)
    (tmp_path / "k").write_text(value or "")
    for reference in ("env:K", f"file:{tmp_path / 'k'}"):
        with pytest.raises(SparkscoreError, match=r"SPS-ENV-KEY.*openssl rand -base64 32") as caught:
            user_key(reference)
        assert not value or value not in str(caught.value)


def test_the_opener_decrypts_a_column_and_leaves_what_is_not_there() -> None:
    address = ("r1", "u1", "file:/a#7", "pre")
    sealed = seal(KEY, b"content", q_id(*address))
    columns = [pa.array([sealed, None, b"{}"]), *(pa.array([text] * 3) for text in address)]
    names = ["payload", "run_id", "unit_id", "source_pointer", "stage"]
    (opened,) = Opener(KEY)([pa.record_batch(columns, names)])
    assert opened.column("payload").to_pylist() == [b"content", None, b"{}"]


@pytest.mark.parametrize(
    "text, secret",
    [
        ("s3a://AKIA:ab/cd@bucket/x refused", "ab/cd"),
        ("jdbc:postgresql://app:pw@db:5432/x", "pw@"),
        ("https://host/x?sas_token=abc&a=1", "abc"),
        ("fs.s3a.secret.key=abc", "abc"),
        ("sasl.jaas.config: 'abc def'", "abc"),
        ('{"password": "abc"}', "abc"),
        ("db.pwd=abc", "abc"),
        ("X-Api-Key: abc", "abc"),
        ("Authorization: Bearer abc.def", "abc"),
        ("ghp_012345678901234567890123456789", "0123"),
        ("mail to ann.b+c@mail.example.org now", "ann"),
        ("card 4111 1111 1111 1111", "1111"),
        ("phone 0171-2345678", "2345"),
        ("id 123456789", "123"),
    ],
)
def test_secrets_and_personal_data_are_taken_out_of_a_text(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "hdfs://nn:8020/lake/a:b@c/part-00000-1234567890123.c000.parquet",
        "/data/day=2026-11-27/part-00001-a1b2c3d4.snappy.parquet, 40960 bytes",
        "run fraud-20261127T101112-a1b2c3, unit 17",
        "Expected float32 (n, 30). Got column 'features': array<double> of length 28",
    ],
)
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
