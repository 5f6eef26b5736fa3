"""A vocabulary or labels file, one entry a line, as texts."""

from __future__ import annotations

from pathlib import Path

from sparkscore.errors import error

__all__ = ["read_lines"]


def read_lines(path: Path) -> tuple[str, ...]:
    """Read the entries of a file: UTF-8, one a line, the last newline optional.

    Raises
    ------
    ModelError
        SPS-MODEL-ENCODER: the file is absent, empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        message = f"Expected a UTF-8 file with one entry a line, got {type(cause).__name__} from {path.name}."
        raise error("SPS-MODEL-ENCODER", message, "Write the file again, as UTF-8 text.") from cause
    if not text.strip():
        message = f"Expected one entry a line in {path.name}, got an empty file."
        raise error("SPS-MODEL-ENCODER", message, "Write the file again, one entry a line.")
    return tuple(text.removesuffix("\n").split("\n"))  # read_text has made every line end a single newline
