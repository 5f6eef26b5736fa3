"""The ledger on a bad day of S3: bursts of 503, lost answers, broken bodies, wrong keys; no secret is ever told."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger import s3_store
from sparkscore.ledger.s3_store import S3Store
from sparkscore.runtime import files
from sparkscore.spark.footers import Footers, parquet_footer
from tests.faults import FaultyProxy, faulty_proxy
from tests.servers import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


@pytest.fixture
def store(s3: S3Server, proxy: FaultyProxy, tmp_path: Path) -> S3Store:
    """A store behind the proxy, which already knows that its server keeps conditions."""
    found = S3Store(f"{s3.bucket('ledgers')}/{tmp_path.name}")
    assert found.put_if_absent("begin", b"")
    return found


def test_a_put_whose_answer_was_lost_is_known_as_ones_own(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["lost"]
    assert store.put_if_absent("a", b"mine")
    assert [request.method for request in proxy.seen[-3:]] == ["PUT", "PUT", "GET"]


def test_a_name_that_another_took_is_not_ones_own_though_the_answer_was_lost(
    store: S3Store, proxy: FaultyProxy
) -> None:
    assert store.put_if_absent("a", b"theirs")
    proxy.faults = ["lost"]
    assert not store.put_if_absent("a", b"mine")
    assert store.get("a") == b"theirs"


def test_bursts_of_503_are_waited_out(store: S3Store, proxy: FaultyProxy, monkeypatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.01)  # of botocore's waits
    proxy.faults = ["503"] * 3
    assert store.put_if_absent("a", b"x")
    proxy.faults = ["503", "lost"]
    assert store.get("a") == b"x"
    proxy.faults = ["503"]
    assert store.names("nowhere") == []
    assert not proxy.faults


def test_a_body_that_breaks_off_is_read_again_and_never_taken_as_whole(store: S3Store, proxy: FaultyProxy) -> None:
    store.put("a", b"x" * 1000)
    proxy.faults = ["broken"] * 2
    assert store.get("a") == b"x" * 1000
    proxy.faults = ["broken"] * 3
    with pytest.raises(SparkscoreError, match="SPS-CLUSTER-STORAGE"):
        store.get("a")


def test_under_faults_by_chance_each_name_is_given_once_and_each_answer_is_right_or_an_error_by_name(
    store: S3Store, proxy: FaultyProxy, monkeypatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.001)  # of botocore's waits
    proxy.rates, proxy.rng = {"503": 0.3, "lost": 0.03, "broken": 0.03, "stale": 0.1}, random.Random(20)
    given, unsure = {}, {}
    for i in range(40):
        name = f"n{i}"
        try:
            assert store.put_if_absent(name, f"of {i}".encode())
            given[name] = f"of {i}".encode()
            assert store.get(name) == given[name]
            assert not store.put_if_absent(name, b"another's")
        except SparkscoreError as failure:
            unsure[name] = failure.code
    assert proxy.spoilt > 20
    assert set(unsure.values()) <= {"SPS-CLUSTER-STORAGE"}
    assert len(unsure) < 20  # botocore's quota of retries runs dry under them in time: a run then ends by name
    proxy.rates, proxy.faults = {}, []
    assert {name: store.get(name) for name in given} == given


def test_a_store_that_begins_to_refuse_is_no_permission(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["403"]
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-ACCESS\]"):
        store.get("a")


def test_a_store_that_forgets_the_condition_is_refused(s3: S3Server, proxy: FaultyProxy, tmp_path: Path) -> None:
    store = S3Store(f"{s3.bucket('ledgers')}/{tmp_path.name}")
    proxy.faults = ["forgotten"] * 2
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*If-None-Match"):
        store.put_if_absent("a", b"x")


def test_more_names_than_a_page_holds_are_all_listed(store: S3Store, s3: S3Server, tmp_path: Path) -> None:
    folder = s3.folder / "ledgers" / tmp_path.name / "many"
    folder.mkdir()
    for i in range(1005):
        (folder / f"{i:04d}").touch()
    assert store.names("many") == [f"{i:04d}" for i in range(1005)]


@pytest.mark.parametrize(
    "environment",
    [{"AWS_SECRET_ACCESS_KEY": "wrong canary"}, {"AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": "canary"}],
    ids=["wrong secret", "unknown key"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get("x"),
        lambda store: store.put("x", b""),
        lambda store: store.put_if_absent("x", b""),
        lambda store: store.names("x"),
    ],
    ids=["get", "put", "put_if_absent", "names"],
)
def test_wrong_keys_are_no_permission_and_are_not_told(s3: S3Server, monkeypatch, environment, call) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-ACCESS\].*s3a://ledgers/r.*HTTP status 403") as caught:
        call(S3Store("s3a://ledgers/r"))
    told = str(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "canary" not in told
    assert s3.secret_key not in told


def test_no_keys_at_all_are_no_permission(s3: S3Server, monkeypatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-ACCESS.*NoCredentialsError"):
        S3Store("s3a://ledgers/r").get("x")


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    for call in (lambda s: s.get("x"), lambda s: s.put_if_absent("x", b""), lambda s: s.names("x")):
        with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*s3://nobodys-bucket.*NoSuchBucket"):
            call(S3Store("s3://nobodys-bucket/ledger"))
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*without a bucket"):
        S3Store("s3:///ledger")


def test_a_store_that_does_not_answer_is_named(s3: S3Server, monkeypatch) -> None:
    monkeypatch.setattr(s3_store, "_REQUEST_TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SparkscoreError, match=r"SPS-CLUSTER-STORAGE.*EndpointConnectionError"):
        S3Store("s3a://ledgers/r").get("x")


def test_a_store_that_does_not_give_a_footer_says_nothing_of_the_file(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(files, "_S3_TRIES", 2)
    place = f"{s3.bucket('inputs')}/{tmp_path.name}.parquet"
    files.write_bytes(place, b"no Parquet")
    look = Footers(parquet_footer, (), absent_is_null=False)._look
    assert look(place)[4] == "SPS-DATA-FILE"
    proxy.faults = ["none", "none", *["503"] * 100]
    with pytest.raises(SparkscoreError, match=r"\[SPS-CLUSTER-STORAGE\].*503"):
        look(place)
    proxy.faults = []


def test_a_worker_that_lacks_the_keys_of_the_jvm_is_refused_at_the_look(s3: S3Server, tmp_path: Path, monkeypatch):
    """Whoever reads the rows then: the look at the footers is before each run, and is the worker's."""
    place = f"{s3.bucket('inputs')}/{tmp_path.name}.parquet"
    files.write_bytes(place, b"no Parquet")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-ACCESS\]") as refused:
        Footers(parquet_footer, (), absent_is_null=False)._look(place)
    assert "canary" not in str(refused.value)
