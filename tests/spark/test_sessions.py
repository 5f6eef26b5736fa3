"""The settings of a session that the command line makes itself."""

from __future__ import annotations

import pytest

from sparkscore.spark import sessions


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


def test_a_jvm_whose_collector_is_chosen_gets_no_second_one(
    made: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.local_session(conf={"spark.driver.extraJavaOptions": "-XX:+UseG1GC"})
    assert made[0]["spark.driver.extraJavaOptions"] == "-XX:+UseG1GC"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseSerialGC")
    sessions.local_session()
    assert "spark.driver.extraJavaOptions" not in made[1]
