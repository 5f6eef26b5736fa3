"""The `_ss` struct: a good row's constant and a bad row's own struct have the same fields and the same constants."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sparkscore.spark.commit import with_ss
from sparkscore.tables import ERR, SS

pytestmark = pytest.mark.spark

AT = datetime(2026, 11, 27, 1, 2, 3, 456789, tzinfo=UTC)
CONSTANTS = {"run_id": "r1", "unit_seq": 3, "model_version": 'it\'s \\ "7" `é`', "scored_at": AT}


@pytest.fixture
def rows(spark):
    err = f"struct<{', '.join(f'{c.name}: {c.type}' for c in ERR)}>"
    good, first, bad = ("NULL", "NULL"), ("NULL", "17"), (f"CAST(struct({_error('SPS-ROW-NULL')}) AS {err})", "NULL")
    cells = ", ".join(f"({i}, CAST({e} AS {err}), CAST({t} AS BIGINT))" for i, (e, t) in enumerate((good, first, bad)))
    # Behind a condition that Spark does not fold, so that the rows are not computed while the query is planned.
    scored = spark.sql(f"SELECT * FROM VALUES {cells} AS t(id, err, _ss_task) WHERE rand() >= 0")
    return with_ss(scored, CONSTANTS).orderBy("id").collect()


def _error(code: str) -> str:
    return ", ".join(f"'{code}'" if c.name == "error_code" else "NULL" for c in ERR)


def test_it_stands_first_and_the_helper_columns_are_gone(rows) -> None:
    assert rows[0].__fields__ == ["_ss", "id"]
    given = {"status", "task_attempt_id", *(c.name for c in ERR), *CONSTANTS}
    assert rows[0]["_ss"].__fields__ == [c.name for c in SS if c.name in given]


def test_every_row_has_the_constants_whatever_stands_in_a_text(rows) -> None:
    for row in rows:
        assert {name: row["_ss"][name] for name in ("run_id", "unit_seq", "model_version")} == {
            name: CONSTANTS[name] for name in ("run_id", "unit_seq", "model_version")
        }
        assert row["_ss"]["scored_at"].astimezone(UTC) == AT


def test_status_error_and_task_id_are_the_rows_own(rows) -> None:
    own = [(r["_ss"]["status"], r["_ss"]["error_code"], r["_ss"]["task_attempt_id"]) for r in rows]
    assert own == [("ok", None, None), ("ok", None, 17), ("error", "SPS-ROW-NULL", None)]
