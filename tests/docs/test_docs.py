"""What the documentation shows can be used: its YAML loads, its Python compiles, its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sparkscore.errors import Exit
from sparkscore.spec.document import read_document
from sparkscore.spec.entries import Missing
from sparkscore.spec.json_schema import json_schema
from sparkscore.spec.pipeline import Limits, Model, OnError, OutputEntry, Quarantine, Sink, Source, load_pipeline
from sparkscore.spec.results import STEPS
from sparkscore.tables import EVENTS, QUARANTINE, RUNS, SS, UNITS

HOME = Path(__file__).parents[2]
PAGES = [
    *(HOME / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(HOME.glob("docs/**/*.md")),
]
REFERENCE = (HOME / "docs/pipeline.md").read_text(encoding="utf-8")
RUNNING = (HOME / "docs/running.md").read_text(encoding="utf-8")

# What a fragment of a pipeline file is completed with.
_LEAST: dict[str, Any] = {
    "version": 1,
    "name": "fragment",
    "source": {"format": "parquet", "location": "/in"},
    "model": {"uri": "model.onnx"},
    "inputs": {"x": ["a"]},
    "sink": {"format": "delta", "location": "/out"},
}


def _blocks(language: str) -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for i, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)):
            found.append(pytest.param(block, id=f"{page.relative_to(HOME)}-{i}"))
    return found


@pytest.mark.parametrize("block", _blocks("yaml"))
def test_each_yaml_block_is_a_pipeline_or_keys_of_one(block: str) -> None:
    document = read_document(block)
    load_pipeline(document if "version" in document else {**_LEAST, **document})


@pytest.mark.parametrize("block", _blocks("python"))
def test_each_python_block_compiles(block: str) -> None:
    ast.parse(block)


def test_the_reference_names_every_key_of_a_pipeline_file() -> None:
    schema = json_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})}
    told = set(re.findall(r"[`{ ](\w+)[`:,} ]", REFERENCE))
    assert keys | set(STEPS) <= told


_TABLES: dict[str, type[BaseModel]] = {
    "source": Source,
    "model": Model,
    "Missing values": Missing,
    "outputs": OutputEntry,
    "on_error": OnError,
    "limits": Limits,
    "sink": Sink,
    "quarantine": Quarantine,
}


@pytest.mark.parametrize("heading", _TABLES)
def test_the_reference_gives_the_keys_and_the_defaults_of_the_code(heading: str) -> None:
    section = re.split(r"^## ", REFERENCE, flags=re.M)
    text = next(part for part in section if part.startswith(f"{heading}\n"))
    table = re.search(r"^\| key \| default .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)
    assert table
    told: dict[str, str] = {}
    for line in table[1].splitlines():
        names, default = [cell.strip() for cell in line.split("|")[1:3]]
        told.update(dict.fromkeys(re.findall(r"`(\w+)`", names), default))
    required = {"source": ("format", "location"), "sink": ("location",)}.get(
        heading, ()
    )  # but for `table`; a validator asks
    fields = _TABLES[heading].model_fields
    assert told == {f.alias or n: "required" if n in required else _default(n, f) for n, f in fields.items()}


def _default(name: str, field: Any) -> str:
    if field.is_required():
        return "required"
    value = "auto" if name == "batch_size" else field.default
    if value is None:
        return "none"
    value = list(value) if isinstance(value, tuple) else value
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`"


def test_the_page_on_running_names_every_exit_code_and_every_column_of_the_tables() -> None:
    assert re.findall(r"^\| (\d+) \| ([A-Z]+) \|", RUNNING, re.M) == [(str(int(e)), e.name) for e in Exit]
    columns = {column.name for columns in (SS, RUNS, UNITS, QUARANTINE) for column in columns}
    assert not [name for name in sorted(columns) if f"`{name}`" not in RUNNING]


def test_the_page_on_running_explains_every_event_and_the_code_writes_each() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", RUNNING.split("### Events")[1].split("### Metrics")[0], re.M))
    assert told == EVENTS
    text = "".join(path.read_text(encoding="utf-8") for path in (HOME / "sparkscore" / "run").rglob("*.py"))
    written = set(re.findall(r"\.write\(\s*\"([a-z_]+)\"", text))
    chosen = {"unit_committed", "unit_reused", "run_failed", "run_fenced"}  # by a variable
    assert written | chosen == set(EVENTS)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(HOME))) for page in PAGES])
def test_each_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert not broken


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
