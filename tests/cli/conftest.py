"""A pipeline file on disk, the command line in this process, and what it printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparkscore.cli import main
from tests.run.conftest import linear_model


@dataclass(frozen=True)
class Told:
    """What one command line came to."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def sparkscore(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Carry out a command line in this process; the Spark commands take the session that is there."""

    def call(*args: object) -> Told:
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in args])
        except SystemExit as end:
            code = int(str(end.code))
        out, err = capsys.readouterr()
        return Told(code, out, err)

    return call


@pytest.fixture
def pipeline_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a pipeline file over the test's own folders; keyword arguments replace its keys."""

    def write(**keys: Any) -> Path:
        linear_model(tmp_path / "linear.onnx")
        document = {
            "version": 1,
            "name": "t",
            "source": {"format": "parquet", "location": str(tmp_path / "in")},
            "model": {"uri": "linear.onnx"},
            "inputs": {"x": ["a", "b", "c"]},
            "outputs": {"score": "y[:, 0]"},
            "keys": ["id"],
            "sink": {"format": "delta", "location": str(tmp_path / "out")},
            "ledger": str(tmp_path / "ledger"),
            **keys,
        }
        file = tmp_path / "p.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    return write
