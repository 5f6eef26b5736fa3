"""The rules of the house, held against every source file, and each against a planted violation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from sparkscore.errors import CODES
from tests.house.rules import RULES, Source

HOME = Path(__file__).parents[2]
FOLDERS = ("sparkscore", "jobs", "tests", "conf", "benchmarks")
FILES = sorted([HOME / "setup.py", *(path for folder in FOLDERS for path in (HOME / folder).rglob("*.py"))])

MANY_LINES = "    x = 1\n" * 61

# rule -> (path, source): the smallest file that breaks it
PLANTED = {
    "file_size": ("sparkscore/a.py", "x = 1\n" * 501),
    "function_size": ("sparkscore/a.py", f"def f():\n{MANY_LINES}"),
    "nested_function_size": ("sparkscore/a.py", "def f():\n  def g():\n" + "    x = 1\n" * 5),
    "nesting": ("sparkscore/a.py", "def f():\n if a:\n  for b in c:\n   while d:\n    with e:\n     if g: pass\n"),
    "positional_parameters": ("sparkscore/a.py", "def f(a, b, c, d, e, g): pass"),
    "sentence_at_the_top": ("sparkscore/a.py", '"""stuff"""'),
    "docstrings": ("sparkscore/a.py", "class C:\n    def f(self): pass"),
    "names": ("sparkscore/utils.py", ""),
    "spark_connect": ("sparkscore/a.py", "spark._jvm"),
    "no_notes_to_self": ("sparkscore/a.py", "x = 1  # TODO: mend"),
    "no_print": ("sparkscore/run/a.py", "print(1)"),
    "errors_are_ours": ("sparkscore/a.py", "def f():\n    raise ValueError('no')"),
    "broad_except": ("sparkscore/a.py", "try: f()\nexcept Exception: pass"),
    "known_codes": ("sparkscore/a.py", "error('SPS-NO-SUCH-CODE')"),
}


@pytest.mark.parametrize("rule", RULES)
def test_no_file_breaks_the_rule(rule: str) -> None:
    broken = []
    for path in FILES:
        source = Source(PurePosixPath(path.relative_to(HOME).as_posix()), path.read_text(encoding="utf-8"))
        broken += [f"{source.path}:{line}: {what}" for line, what in RULES[rule](source)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_violation_is_found(rule: str) -> None:
    path, text = PLANTED[rule]
    assert list(RULES[rule](Source(PurePosixPath(path), text)))


@pytest.mark.parametrize(
    "text",
    [
        "df.rdd.map(f)",
        "spark.sparkContext.broadcast(x)",
        "getattr(spark, '_jvm')",
        "df.cache()",
        "df.persist()",
        "isinstance(x, pyspark.sql.DataFrame)",
        "sc.accumulator(0)",
    ],
)
def test_what_spark_connect_lacks_is_found_in_each_form(text: str) -> None:
    assert list(RULES["spark_connect"](Source(PurePosixPath("sparkscore/a.py"), text)))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("spark_connect", "F.broadcast(df)"),
        ("spark_connect", "functools.cache(f)"),
        ("nesting", "def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n elif e: pass\n"),
        ("broad_except", "try: f()\nexcept Exception as e:  # boundary: one row must not end the batch\n    pass"),
        ("broad_except", "try: f()\nexcept KeyError: pass"),
        ("positional_parameters", "def f(self, a, b, c, d, e, *, g): pass"),
    ],
)
def test_what_is_allowed_is_not_found(rule: str, text: str) -> None:
    assert not list(RULES[rule](Source(PurePosixPath("sparkscore/a.py"), text)))


def test_each_error_code_has_an_entry_in_the_troubleshooting_page() -> None:
    page = (HOME / "docs/troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## (\S+)\n\n(.+) \(exit (\d+)\)\.\n\n\*\*Why:\*\* .+\n\n\*\*Fix:\*\* .+$", page, re.M)
    assert entries == [(code, c.title[0].upper() + c.title[1:], str(int(c.exit))) for code, c in CODES.items()]


def test_each_error_code_stands_in_a_test() -> None:
    tests = [path for path in (HOME / "tests").rglob("*.py") if path.parent.name != "house"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests)
    assert not [code for code in CODES if not re.search(rf"{code}(?![A-Z-])", text)]


def test_import_of_sparkscore_takes_no_time_and_no_third_party_package() -> None:
    code = (
        "import json, sys, time; before = set(sys.modules); start = time.perf_counter(); import sparkscore;"
        "print(json.dumps([time.perf_counter() - start, sorted(set(sys.modules) - before)]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=HOME)) for _ in range(3)]
    seconds, modules = min(run[0] for run in runs), runs[0][1]
    foreign = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"sparkscore"}
    assert not foreign
    assert seconds < 0.3


def test_decision_records_have_one_number_each_and_fit_a_page() -> None:
    records = sorted((HOME / "docs/decisions").glob("*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    assert not [path.name for path in records if len(path.read_text(encoding="utf-8").splitlines()) > 60]
