"""A driver that holds canaries wherever secrets and personal data are: it runs, fails, shows and exports, then ends.

    python -m tests.e2e.leaks FOLDER

First in a session of ours, then in one with Spark's own settings for redaction and its log; a line on stderr stands
between the two.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import yaml
from onnx import TensorProto, helper

from sparkscore.cli import main
from sparkscore.run.pipeline import Pipeline
from sparkscore.spark.sessions import local_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What Spark does when it is told nothing (4.2.0); the JVM keeps the settings that it was started with.
SPARKS_REDACTION = {
    "spark.redaction.regex": "(?i)secret|password|token|access[.]?key",
    "spark.redaction.string.regex": "(?!)",
    "spark.sql.redaction.string.regex": "(?!)",
}
MARK = "---- Spark's own settings ----"
CONF = {
    "pwd": ("spark.app.db.pwd", "cnry-pwd-1"),
    "credential": ("spark.app.credential", "cnry-credential-2"),
    "apikey": ("spark.app.apikey", "cnry-apikey-3"),
    "password": ("spark.app.password", "cnry-password-4"),
    "url": ("spark.app.database", "jdbc:postgresql://app:cnry-url-5@db/x"),
    "jaas": ("spark.app.sasl.jaas.config", 'Login required username="a" pass="cnry-jaas-6";'),
    "s3 key": ("spark.hadoop.fs.s3a.access.key", "AKIACNRY7CNRY7CNRY7C"),
    "s3 secret": ("spark.hadoop.fs.s3a.secret.key", "cnry-s3secret-8"),
    "connection": ("spark.app.connection.text", "cnry-connection-9"),
}
ENVIRONMENT = {
    "env secret": ("AWS_SECRET_ACCESS_KEY", "cnry-env-10"),
    "quarantine key": ("QUARANTINE_KEY", "Y25yeWNucnljbnJ5Y25yeWNucnljbnJ5Y25yeTEyMzQ="),
}
DESCRIPTION = {"token in a description": "ghp_CNRY12cnry12cnry12cnry12"}
LITERALS = {"e-mail in a plan": "cnry-13@example.org", "card in a plan": "5500 1313 1414 1515"}
ROWS = {
    "row that raises": "cnry-raises-15",
    "e-mail of a row": "cnry-16@example.org",
    "card of a row": "4111 1717 1717 1717",
    "category": "cnry-category-18",
    "malformed line": "cnry-line-19",
    "cast": "cnry-cast-20",
}
CANARIES = {
    **{name: value.split("app:")[-1].split("@db")[0] for name, (_, value) in CONF.items()},
    **{name: value for name, (_, value) in ENVIRONMENT.items()},
    **DESCRIPTION,
    **LITERALS,
    **ROWS,
    "jaas": "cnry-jaas-6",
}


def document(folder: Path, **keys: Any) -> dict[str, Any]:
    """A pipeline over the canaries; it encrypts payloads and may lose half of the rows."""
    first, second = LITERALS.values()
    base = {
        "version": 1,
        "name": "leaks",
        "source": {
            "format": "csv",
            "location": str(folder / "in"),
            "schema": "id bigint, x float, s string, c string, m string",
            "where": f"coalesce(s, '') <> '{first}' AND coalesce(s, '') <> '{second}'",
        },
        "model": {"uri": str(folder / "m.onnx")},
        "inputs": {"s": "s", "x": "x", "c": {"category": "c", "vocabulary": ["A", "B"]}},
        "outputs": {"y": "y"},
        "keys": ["id"],
        "on_error": {"max_fraction": 0.9},
        "sink": {"format": "delta", "location": str(folder / "out")},
        "quarantine": {"location": str(folder / "bad"), "payload": "encrypted", "key": "env:QUARANTINE_KEY"},
        "ledger": str(folder / "ledger"),
    }
    return {**base, **keys}


def write_input(folder: Path) -> None:
    """Good rows and one bad row for each canary of a row, and a model that reads texts as numbers."""
    raises, mail, card, category, line, cast = ROWS.values()
    lines = [*(f"{i},1.0,{i},A,5" for i in range(1, 50)), f"100,1.0,{raises},A,5", f"101,,{mail},A,5"]
    lines += [f"102,,{card},A,5", f"103,1.0,1,{category},5", f"{line},x,y,A,5", f"104,1.0,1,A,{cast}"]
    (folder / "in").mkdir()
    (folder / "in" / "part.csv").write_text("\n".join(lines) + "\n")
    nodes = [
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["c"], ["g"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["f", "g", "x"], ["y"]),
    ]
    kinds = {"s": TensorProto.STRING, "x": TensorProto.FLOAT, "c": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), str(folder / "m.onnx"))


def session(folder: Path, conf: dict[str, str]) -> SparkSession:
    """A local session with the canaries in its settings, and an event log."""
    log = folder / "events"
    log.mkdir(parents=True)
    events = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": log.as_uri(), "spark.eventLog.compress": "false"}
    return local_session("local[2,4]", {**dict(CONF.values()), **events, **conf})


def command(folder: Path, *words: str) -> None:
    """Carry out a command line; what it prints is kept."""
    with (folder / "cli.txt").open("a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        out.write(f"$ sparkscore {' '.join(words)}\n")
        try:
            main(list(words))
        except SystemExit as end:
            out.write(f"exit {end.code}\n")


def in_our_session(folder: Path) -> None:
    """Run well, fail on a cast by the command line and in Python, show, and export."""
    spark = session(folder, {})
    spark.sparkContext.setJobDescription(f"nightly scoring with {DESCRIPTION['token in a description']}")
    Pipeline.load(document(folder)).run(spark, run_id="good")
    failing = document(folder, prepare=[{"with": {"m": "cast(m AS bigint)"}}, {"where": "m > 0"}])
    (folder / "failing.yaml").write_text(yaml.safe_dump(failing))
    try:
        Pipeline.load(failing).run(spark, run_id="failing")
    except Exception:  # boundary: what it says is what is looked at
        (folder / "exception.txt").write_text(traceback.format_exc())
    at = ("--ledger", str(folder / "ledger"))
    result = str(folder / "result.json")
    command(folder, "score", str(folder / "failing.yaml"), "--run-id", "failing-2", "--result", result)
    command(folder, "runs", "show", "failing", "--json", *at)
    command(folder, "quarantine", "show", "good", "--json", *at)
    command(folder, "quarantine", "export", "good", "--format", "csv", "--to", str(folder / "exported"), *at)
    command(folder, "quarantine", "show", "good", "--payload", *at)
    spark.stop()


def in_sparks_session(folder: Path) -> None:
    """Fail on the cast, in a session with Spark's own settings for redaction."""
    spark = session(folder / "default", SPARKS_REDACTION)
    log4j = spark.sparkContext._jvm.org.apache.logging.log4j.core.config.Configurator
    log4j.reconfigure(spark.sparkContext._jvm.java.net.URI((folder / "plain.properties").as_uri()))
    sys.stderr.write(f"{MARK}\n")
    sys.stderr.flush()
    spark.sparkContext.setJobDescription(f"nightly scoring with {DESCRIPTION['token in a description']}")
    with contextlib.suppress(Exception):
        Pipeline.load(folder / "failing.yaml").run(spark, run_id="default")
    spark.stop()


def run(folder: Path) -> None:
    os.environ.update(dict(ENVIRONMENT.values()))
    write_input(folder)
    (folder / "plain.properties").write_text(
        "rootLogger.level = warn\nrootLogger.appenderRef.c.ref = c\nappender.c.type = Console\nappender.c.name = c\n"
        "appender.c.target = SYSTEM_ERR\nappender.c.layout.type = PatternLayout\n"
        "appender.c.layout.pattern = %d %p %c{1}: %m%n%ex\n"
    )
    in_our_session(folder)
    in_sparks_session(folder)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
