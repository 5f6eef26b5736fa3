"""The demo's data: the flights of 2013 as the package on PyPI has them.

What the demo makes of them is in tests/e2e/test_demo.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkscore import demo

HOME = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The downloaded files, kept in the clone's .data between runs."""
    demo.download(HOME / ".data")
    return HOME / ".data"


@pytest.mark.slow
def test_a_damaged_file_is_replaced_by_the_known_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text("year,month\n2013,1\n")
    flights, weather = demo.download(tmp_path)
    assert flights.stat().st_size == 31_053_850
    assert weather.stat().st_size == 2_294_215
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flights.csv", "weather.csv"]


@pytest.mark.slow
def test_what_was_downloaded_needs_no_network_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")  # no pip to call
    assert demo.download(data) == (data / "flights.csv", data / "weather.csv")
