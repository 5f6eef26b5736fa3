"""A row keeps its first fault, and no message carries a value of it."""

from __future__ import annotations

import numpy as np
import pytest

from sparkscore.runtime.faults import Faults, scrubbed

ORT = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Cast node. "


def test_a_row_keeps_its_first_fault_and_the_others_get_the_new_one():
    faults = Faults(4)
    faults.add(np.array([False, True, False, False]), "SPS-ROW-NULL", "null")
    faults.add(np.array([1, 3]), "SPS-ROW-RANGE", "range", stage="pre")
    assert faults.bad.tolist() == [False, True, False, True]
    assert [faults.get(row).code for row in (1, 3)] == ["SPS-ROW-NULL", "SPS-ROW-RANGE"]
    assert faults.get(1).error_class == "O3"


def test_no_marked_row_is_no_fault():
    faults = Faults(3)
    faults.add(np.zeros(3, bool), "SPS-ROW-NULL", "null")
    assert not faults.any
    with pytest.raises(KeyError):
        faults.get(0)


def test_messages_are_cut_at_500_characters():
    faults = Faults(1)
    faults.add([0], "SPS-ROW-NULL", "x" * 900)
    assert len(faults.get(0).message) == 500


@pytest.mark.parametrize(
    "text, values, kept",
    [
        (ORT + "Name:'c1' Status Message: 4111-1111-1111-1111", (), ORT + "Name:'c1' Status Message: #"),
        (
            "indices out of bounds, idx=-99 in [-5,4] for float32",
            (),
            "indices out of bounds, idx=# in [#,#] for float32",
        ),
        ("value 1.5e-07 or nan, at 0x7ffd", (), "value # or #, at #"),
        ("cannot read Ann Smith, nor Bo", ("Ann Smith", "Bo"), "cannot read #, nor #"),
        ("write to ann@example.org at s3://user:key@host/x", (), "write to # at #"),
        ("first line\nsecond with 12345", (), "first line"),
        ("", (), ""),
    ],
)
def test_a_foreign_message_keeps_its_words_and_loses_every_value(text, values, kept):
    assert scrubbed(text, values) == kept
