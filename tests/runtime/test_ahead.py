"""A thread that works ahead gives the same items, the same error, and is gone when its reader is."""

from __future__ import annotations

import threading
import time

import pytest

from sparkscore.runtime.ahead import ahead


def threads() -> int:
    return sum(thread.name == "sparkscore-ahead" for thread in threading.enumerate())


def test_the_items_come_in_order_and_the_thread_ends():
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter(()))) == []
    assert threads() == 0


def test_no_more_items_are_made_ahead_than_it_may():
    made = []
    items = ahead((made.append(i) or i for i in range(100)), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 4  # the one that was taken, two that wait, one in the making
    items.close()
    assert threads() == 0
    assert len(made) <= 5


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise LookupError("no second")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(LookupError, match="no second"):
        next(items)
    assert threads() == 0


def test_items_are_made_while_others_are_used():
    arrived = threading.Event()

    def second_is_made_early():
        yield 1
        arrived.set()
        yield 2

    items = ahead(second_is_made_early())
    assert next(items) == 1
    assert arrived.wait(5)
    assert list(items) == [2]
