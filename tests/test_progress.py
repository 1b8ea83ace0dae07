"""What is said of the time that work takes."""

import re
import time
from datetime import datetime

import pytest

from tfjointrd import progress


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s left"),
        (99, "99 s left"),
        (101, "2 minutes left"),
        (600, r"10 minutes left, until \d\d:\d\d"),
        (9000, r"2.5 hours left, until .*\d\d:\d\d"),
        (3 * 86400, r"72.0 hours left, until \d\d \w+ \d\d:\d\d"),
    ],
)
def test_time_left(seconds, text):
    assert re.fullmatch(text, progress.time_left(seconds))


def test_the_clock_is_that_of_the_end(monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 1, 12, 0)

    monkeypatch.setattr(progress, "datetime", Noon)
    assert progress.time_left(1200) == "20 minutes left, until 12:20"
    assert progress.time_left(86400) == "24.0 hours left, until 02 Jan 12:00"


def test_steps_go_on_at_the_pace_of_those_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    steps = progress.Steps(5, done=2)  # two were done before, and say nothing of the pace
    now[0] += 10
    assert steps.next() == "3/5, 20 s left"
    now[0] += 20
    assert steps.next() == "4/5, 15 s left"
    assert steps.next() == "5/5"


def test_a_line_is_written_over_and_ended_once(capsys):
    line = progress.Line()
    line.write("a long text")
    line.write("short")
    line.end()
    line.end()
    assert capsys.readouterr().out == "\ra long text\rshort      \n"
    progress.Line(shown=False).end("nothing")
    assert capsys.readouterr().out == ""


def test_only_long_work_says_how_far_it_is(monkeypatch, capsys):
    class Data:
        num_batches = 3

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert list(progress.followed("abc", "reading", Data)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    for data, second, last in ((Data, "2/3, 8 s left", "3/3"), (None, "2", "3")):
        for _ in progress.followed("abc", "reading", data):
            now[0] += 8
        lines = capsys.readouterr().out.split("\r")[1:]
        assert [line.strip() for line in lines] == [f"reading: batch {second}", f"reading: batch {last}"]
