"""What the keys of a pipeline file have in common: closed mappings, text, numbers, URIs, and ways to refuse a value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, LiteralString

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# user:password@, whose password may hold '/'. Only a bucket's name is never followed by a port. Oracle: user/password@.
_USER = r"jdbc:oracle:\w+:[^/@\s]+/[^@\s]+@|s3[an]?://[^/@:\s]*:[^@\s]*@|://(?![^/@:\s]*:\d{1,5}/)[^/@:\s]*:[^@\s]*@"
_WORD = (
    r"secret|passw(?:or)?d|passphrase|pwd|token(?!i[sz]|s$)|credential|signature|(?:access|account|api|private)_?key"
)
_QUERY = rf"[?&;](?:[\w.-]*(?:{_WORD})[\w.-]*|sig|sas|key|x-amz-[a-z-]+)="
_SECRET = re.compile(f"{_USER}|{_QUERY}", re.IGNORECASE)
_SECRET_NAME = re.compile(f"{_WORD}|encryptionkey$|(?<!by)pass$")


def refused(code: LiteralString, message: str, fix: str, at: str = "") -> PydanticCustomError:
    """Build the error that a validator raises; `load_pipeline` turns it into `code`, at the key's path or `at`."""
    return PydanticCustomError(code, "{message}", {"message": message, "fix": fix, "at": at})


def carries_secret(value: Any) -> bool:
    """Tell whether a text, or anything in a mapping or list, looks like a password, key or token.

    Examples
    --------
    >>> carries_secret("s3a://AKIA:ab/cd@bucket/m.onnx"), carries_secret("https://host:8080/a@b")
    (True, False)
    """
    if isinstance(value, Mapping):
        return any(names_secret(str(name)) or carries_secret(v) for name, v in value.items())
    if isinstance(value, list | tuple):
        return any(map(carries_secret, value))
    return isinstance(value, str) and _SECRET.search(value) is not None


def names_secret(name: str) -> bool:
    """Tell whether the value of an option of this name is a secret, however the name is written.

    Examples
    --------
    >>> names_secret("fs.azure.account.key.x"), names_secret("private-key"), names_secret("nullValue")
    (True, True, False)
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    is_sas = re.search(r"(?<![A-Za-z])(sas|SAS)(?![a-z])", name) is not None  # of Azure, and no part of another word
    return is_sas or _SECRET_NAME.search(plain) is not None


def near(name: str, names: Iterable[str]) -> str:
    """Give the names that `name` may have meant, as the start of a fix; empty text when none is near.

    Examples
    --------
    >>> near("modle", ["model", "name"])
    "Did you mean 'model'? "
    """
    names = list(names)
    by_case = {n.lower(): n for n in names}
    found = [by_case[n] for n in get_close_matches(name.lower(), by_case, n=3, cutoff=0.6)]
    return f"Did you mean {' or '.join(repr(n) for n in found)}? " if found else ""


class Closed(BaseModel):
    """A frozen mapping of the pipeline file that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Write a short form out as the mapping that it stands for."""
        return value

    @classmethod
    def known_keys(cls) -> list[str]:
        """List the keys as they are written in the file."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, value: Any) -> Any:
        value = cls.expanded(value)
        known = cls.known_keys()
        unknown = [key for key in value if key not in known] if isinstance(value, Mapping) else []
        if unknown:
            fix = near(str(unknown[0]), known) + f"The keys here are {', '.join(known)}."
            raise refused("SPS-SPEC-KEY", f"Unknown key {str(unknown[0])!r}", fix)
        return value


def number_from_text(value: Any) -> Any:
    """Read a number written as text, because `${variables}` are always text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if set(value) & set(".eE") else int(value)
    return value


def _flag_from_text(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _finite(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise refused("SPS-SPEC-VALUE", "Expected a finite number", "Give a number.")
    return value


def without_credentials(uri: str) -> str:
    """Refuse a URI that carries a secret: it would stand in plans, tables and messages."""
    if carries_secret(uri):
        fix = "Take the credentials out of the URI; the session's or the machine's own identity is used."
        raise refused("SPS-SPEC-VALUE", "Expected a URI without a secret, got one that carries a credential", fix)
    return uri


def located(uri: str, folder: Path) -> str:
    """Give a place as it is written in a pipeline file; a relative path begins at `folder`."""
    scheme, colon, _ = uri.partition(":")
    if (colon and "/" not in scheme) or uri.startswith("/"):
        return uri
    return os.path.normpath(folder / uri)


def _absolute(place: str) -> str:
    """A run may be resumed from another folder, and the JVM's may be another one than Python's."""
    return located(place, Path.cwd())


_NUMBER_TEXT = BeforeValidator(number_from_text)

Text = Annotated[str, Strict(), Field(min_length=1)]
Count = Annotated[int, Strict(), Field(ge=0), _NUMBER_TEXT]
Positive = Annotated[int, Strict(), Field(ge=1), _NUMBER_TEXT]
Float = Annotated[float, Strict(), _NUMBER_TEXT, AfterValidator(_finite)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1), _NUMBER_TEXT, AfterValidator(_finite)]
Amount = Annotated[float, Strict(), Field(ge=0), _NUMBER_TEXT, AfterValidator(_finite)]
AboveZero = Annotated[float, Strict(), Field(gt=0), _NUMBER_TEXT, AfterValidator(_finite)]
Seconds = AboveZero
Flag = Annotated[bool, Strict(), BeforeValidator(_flag_from_text)]
Uri = Annotated[Text, AfterValidator(without_credentials)]
Place = Annotated[Uri, AfterValidator(_absolute)]


def _two(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != 2:
        raise refused("SPS-SPEC-VALUE", f"Expected a list of two, got {list(value)!r}", "Give two values.")
    return value


TWO = BeforeValidator(_two)


def _ordered(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise refused("SPS-SPEC-VALUE", f"Expected [low, high] with low <= high, got [{low}, {high}]", "Swap the two.")
    return bounds


Range = Annotated[tuple[Float | None, Float | None], TWO, AfterValidator(_ordered)]


def later(*values: str) -> BeforeValidator:
    """Refuse `values`, which a later version will take, with SPS-SPEC-LATER."""
    return BeforeValidator(_Later(values))


class _Later:
    def __init__(self, values: tuple[str, ...]) -> None:
        self.values = values

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.values:
            raise refused("SPS-SPEC-LATER", f"{value!r} is not in this version", "Use one of the other values.")
        return value


def _not_yet(value: Any) -> Any:
    if value is not None:
        raise refused("SPS-SPEC-LATER", "This key is not in this version", "Take it out.")
    return value


Later = Annotated[None, BeforeValidator(_not_yet)]


def _option_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


# Spark and ONNX Runtime take options as text.
_OPTION = WithJsonSchema({"type": ["string", "number", "boolean"]})
Option = Annotated[str, Strict(), BeforeValidator(_option_text), _OPTION]
