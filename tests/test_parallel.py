"""Work shared by processes: the same answers, the caller's environment, and nobody left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import psutil

from conftest import ROOT, wait_until
from stpath_core.parallel import each

LEFT_BEHIND = """
import os, sys
from stpath_core.parallel import each
for one in each(abs, [1, 2, 3], workers=2): print(one, flush=True)
import time
list(each(time.sleep, [60, 60], workers=2))
"""


def test_answers_come_in_order_whoever_gave_them():
    assert (
        list(each(partial(pow, 2), [3, 1, 2, 0], workers=2))
        == list(each(partial(pow, 2), [3, 1, 2, 0]))
        == [8, 2, 4, 1]
    )


def test_helpers_see_the_environment_as_it_is_when_they_are_called(monkeypatch):
    for value in ("one", "two"):  # the second after the server of the first has begun
        monkeypatch.setenv("STPATH_TRIED", value)
        assert set(each(os.getenv, ["STPATH_TRIED"] * 2, workers=2)) == {value}


def test_who_is_killed_leaves_no_helper_behind(tmp_path):
    words = [sys.executable, "-c", LEFT_BEHIND]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=surroundings) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        family = psutil.Process(process.pid)
        assert wait_until(lambda: len(family.children(recursive=True)) >= 3, 30)
        helpers = family.children(recursive=True)
        process.kill()
    assert wait_until(lambda: not any(h.is_running() and h.status() != psutil.STATUS_ZOMBIE for h in helpers), 20)
