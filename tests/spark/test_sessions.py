"""The settings of a session that the command line makes itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.redaction import PATTERN
from sparkscore.spark import sessions
from sparkscore.spark.redaction import REDACTION_CONF, log_settings


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The settings of the sessions that are asked for; none is started."""
    asked: list[dict[str, str]] = []
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sessions, "_session", asked.append)
    return asked


def test_the_options_of_the_jvm_stand_beside_those_of_the_command(made: list[dict[str, str]]) -> None:
    sessions.local_session(conf={"spark.driver.extraJavaOptions": "-Dlog4j2.configurationFile=x"})
    assert made[0]["spark.driver.extraJavaOptions"].split()[-1] == "-Dlog4j2.configurationFile=x"
    assert "-XX:+UseParallelGC" in made[0]["spark.driver.extraJavaOptions"].split()


def test_only_a_session_with_a_place_on_s3_gets_its_jars_and_its_address(
    made: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(sessions.jars, "ensure", lambda s3: asked.append(s3) or [])
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    sessions.local_session(places=["/in", "hdfs://n/out"])
    sessions.local_session(places=["/in", "s3a://lake/out"])
    assert asked == [False, True]
    assert not [key for key in made[0] if "fs.s3" in key]
    assert {key.removeprefix("spark.hadoop.fs."): value for key, value in made[1].items() if "fs.s3" in key} == {
        "s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "s3a.endpoint": "http://127.0.0.1:9000",
        "s3a.endpoint.region": "us-east-1",
        "s3a.path.style.access": "true",
        "s3a.connection.ssl.enabled": "false",
    }
    assert "canary" not in str(made)


def test_a_jvm_whose_collector_is_chosen_gets_no_second_one(
    made: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.local_session(conf={"spark.driver.extraJavaOptions": "-XX:+UseG1GC"})
    assert made[0]["spark.driver.extraJavaOptions"].endswith(" -XX:+UseG1GC")
    assert "UseParallelGC" not in made[0]["spark.driver.extraJavaOptions"]
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseSerialGC")
    sessions.local_session()
    assert "GC" not in made[1]["spark.driver.extraJavaOptions"]


def test_a_session_of_ours_keeps_secrets_out_of_sparks_event_log_and_rows_out_of_its_log_lines(
    made: list[dict[str, str]],
) -> None:
    sessions.local_session()
    assert REDACTION_CONF.items() <= made[0].items()
    (option,) = (o for o in made[0]["spark.driver.extraJavaOptions"].split() if "log4j2" in o)
    assert option == f"-Dlog4j2.configurationFile={log_settings().resolve().as_uri()}"
    log, submit = (_properties(log_settings().parent / n) for n in (log_settings().name, "spark-redaction.properties"))
    assert log["appender.console.layout.replace.regex"] == rf"'[^'\n]*'|{PATTERN}"
    assert submit == REDACTION_CONF


def _properties(file: Path) -> dict[str, str]:
    lines = (line.partition(" = ") for line in file.read_text().splitlines() if not line.startswith("#"))
    return {key: value.replace("\\\\", "\\") for key, _, value in lines}


def test_only_a_master_of_this_machine_keeps_the_driver_to_the_loopback(
    made: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "")  # put back after the test
    monkeypatch.delenv("SPARK_LOCAL_IP")
    sessions.local_session("yarn")
    assert "SPARK_LOCAL_IP" not in os.environ
    for master in (None, "local[2]", "local-cluster[2,1,1024]"):
        sessions.local_session(master)
    assert os.environ["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert [settings.get("spark.driver.host") for settings in made] == [None, *["127.0.0.1"] * 3]
    assert [settings.get("spark.driver.bindAddress") for settings in made] == [None, *["127.0.0.1"] * 3]


def test_a_connect_server_is_asked_for_a_session_and_given_no_setting(made: list[dict[str, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"sc://127.0.0.1:{server.getsockname()[1]}/;user_id=me"
        sessions.local_session(url, {"spark.driver.extraJavaOptions": "-Dx=y"})
    assert made == [{"spark.remote": url}]


@pytest.mark.parametrize(
    ("master", "told"),
    [
        ("spark://127.0.0.1:{port}", r"a Spark session of spark://127.0.0.1:\d+. Got 127.0.0.1:\d+: .*refused"),
        ("spark://127.0.0.1:{port},localhost:{port}", r"127.0.0.1:\d+: .*refused; localhost:\d+: "),
        ("sc://127.0.0.1:{port}/;token=canary", r"a Spark session of sc://127.0.0.1:\d+/. Got .*refused"),
        ("sc://nowhere.invalid", r"Got nowhere.invalid: "),
        ("spark://127.0.0.1:99999999999", r"Got 127.0.0.1:99999999999: "),
    ],
)
def test_a_cluster_that_does_not_answer_is_named_at_once(made: list[dict[str, str]], master: str, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SparkscoreError, match=told) as raised:
        sessions.local_session(master.format(port=port))
    assert (raised.value.code, raised.value.exit_code) == ("SPS-ENV-SPARK", 4)
    assert "canary" not in str(raised.value)
    assert made == []


def test_one_of_several_masters_is_enough(made: list[dict[str, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sessions.local_session(f"spark://nowhere.invalid:7077,127.0.0.1:{port}")
    assert len(made) == 1
