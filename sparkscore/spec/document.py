"""A pipeline file's text into a plain mapping: YAML or JSON read without surprises, overrides and variables applied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sparkscore.errors import error
from sparkscore.spec.fields import near

_MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 20


def read_document(
    source: str | Path | Mapping[str, Any], sets: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Read a document, override keys, and fill its ``${variables}``.

    Parameters
    ----------
    source : str, Path or mapping
        A path; the text itself (recognised by a line break or a leading brace); or the document as a mapping.
    sets : mapping of str to str, optional
        ``a.b`` overrides a key with a value read as YAML. A name without a dot fills ``${name}`` where the document
        has it, and otherwise overrides the key of that name.
    env : mapping of str to str, optional
        Fills the variables that `sets` does not. Default: the process environment.

    Raises
    ------
    SpecError
        SPS-SPEC-FILE, SPS-SPEC-KEY (an override of something that is no mapping), SPS-SPEC-VARIABLE.
    """
    document = _mapping(source)
    variables = _overridden(document, sets or {})
    environment = os.environ if env is None else env
    filled: dict[str, Any] = _mapped(document, lambda text, at: _filled(text, at, variables, environment))
    return filled


def is_path(source: object) -> bool:
    """Tell a path from the text of a document and from a mapping."""
    return isinstance(source, Path) or (isinstance(source, str) and "\n" not in source and source.lstrip()[:1] != "{")


def _mapping(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        found: Any = source
    else:
        text = _file_text(Path(source)) if is_path(source) else str(source)
        found = _parsed(text, **({"file": str(source)} if is_path(source) else {}))
    if not isinstance(found, Mapping):
        message = f"Expected a mapping (key: value) at the top of the file, got {type(found).__name__}."
        raise error("SPS-SPEC-FILE", message, "Begin with `version: 1` and `name:`.")
    document: dict[str, Any] = _mapped(found, lambda text, at: text)
    return document


def _file_text(path: Path) -> str:
    try:
        data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b" " * (_MAX_BYTES + 1)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        fix = "Save the file as UTF-8."
        raise error("SPS-SPEC-FILE", f"Expected UTF-8 text, got byte {cause.start} of none.", fix, file=path) from cause
    except OSError as cause:
        message = f"The pipeline file cannot be read: {cause.strerror or cause}."
        raise error("SPS-SPEC-FILE", message, "Give the path of a YAML or JSON file.", file=path) from cause


def _parsed(text: str, **context: str) -> Any:
    if len(text.encode()) > _MAX_BYTES:
        raise error("SPS-SPEC-FILE", "Expected at most 1 MiB of text, got more.", "Make the file smaller.", **context)
    try:
        return _from_json(text) if _is_json(text, context.get("file", "")) else _from_yaml(text)
    except RecursionError:
        raise _too_deep(**context) from None
    except (yaml.YAMLError, ValueError) as cause:
        mark = getattr(cause, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(cause, "lineno", None)
        problem = getattr(cause, "problem", None) or str(cause).partition("\n")[0]
        message = f"The text cannot be read: {problem}."
        raise error("SPS-SPEC-FILE", message, "Mend the text at that line.", **context, line=line) from cause


def _too_deep(**context: Any) -> Exception:
    return error("SPS-SPEC-FILE", f"Expected at most {_MAX_DEPTH} levels, got more.", "Nest less deeply.", **context)


def _is_json(text: str, file: str) -> bool:
    """Tell JSON from YAML by the file's name, else by a brace and a quoted key."""
    return file.endswith(".json") or re.match(r'\s*\{\s*"', text) is not None


def _from_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_different_keys, parse_constant=_no_constant)


def _different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"the key {twice!r} stands twice in one mapping")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, problem: str, place: Any) -> None:
        super().__init__(problem=problem, problem_mark=place.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML by the rules of version 1.2, without aliases, tags and duplicate keys; every key is text.

    PyYAML's own rules are those of 1.1, where `on`, `y` and `no` are booleans, `1:30` is a number, `010` is eight
    and a key `null` is None: names of columns and outputs would change without a word.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("aliases (*name) are not allowed", event)
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"tags ({event.tag}) are not allowed", event)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            _as_text_keys([key for key, _ in node.value])
        return node


def _as_text_keys(keys: list[yaml.Node]) -> None:
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused("a key must be text", key)
        if key.value in seen:
            raise _Refused(f"the key {key.value!r} stands twice in one mapping", key)
        seen.add(key.value)
        key.tag = "tag:yaml.org,2002:str"


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _from_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _mapped(value: Any, change: Callable[[str, str], Any], at: str = "", depth: int = 1) -> Any:
    """Copy a document with `change` applied to its texts (the value, the path), and all keys as text."""
    if isinstance(value, Mapping | list | tuple) and depth > _MAX_DEPTH:
        raise _too_deep(at=at)
    if isinstance(value, Mapping):
        keys = {key: "null" if key is None else str(key) for key in value}
        return {k: _mapped(value[key], change, f"{at}.{k}" if at else k, depth + 1) for key, k in keys.items()}
    if isinstance(value, list | tuple):
        return [_mapped(v, change, f"{at}[{i}]", depth + 1) for i, v in enumerate(value)]
    return change(str(value), at) if isinstance(value, str | Path) else value


_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)(?P<end>\}?)")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>.*))?", re.DOTALL)


def _texts(value: Any) -> Iterator[str]:
    found: list[str] = []
    _mapped(value, lambda text, at: found.append(text))
    return iter(found)


def _overridden(document: dict[str, Any], sets: Mapping[str, str]) -> dict[str, str]:
    """Override keys in place; give the sets that are variables."""
    for key in (k for k in sets if "." in k):
        _override(document, key, sets[key])
    bodies = [m["body"] or "" for text in _texts(document) for m in _VARIABLE.finditer(text)]
    used = {body.partition(":-")[0] for body in bodies}
    for key in (k for k in sets if "." not in k and k not in used):
        _override(document, key, sets[key])
    return {k: str(v) for k, v in sets.items() if k in used}


def _override(document: dict[str, Any], key: str, value: str) -> None:
    here: Any = document
    *parents, last = key.split(".")
    for step in parents:
        place = _place(here, step, key)
        if isinstance(here, dict) and here.get(place) is None:
            here[place] = {}
        here = here[place]
    here[_place(here, last, key)] = _parsed(value, at=f"--set {key}") if isinstance(value, str) else value


def _place(here: Any, step: str, key: str) -> Any:
    """Give the key of a mapping, or the number of an entry of a list."""
    if isinstance(here, dict):
        return step
    if isinstance(here, list) and step.isdecimal() and int(step) < len(here):
        return int(step)
    message = f"--set {key} wants a mapping, or a list with an entry {step}, got {here!r}."
    raise error("SPS-SPEC-KEY", message, "Override a key that is there, or the mapping as a whole.")


def _filled(text: str, at: str, variables: Mapping[str, str], environment: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: _value(match, at, variables, environment), text)


def _value(match: re.Match[str], at: str, variables: Mapping[str, str], environment: Mapping[str, str]) -> str:
    if match[0] == "$${":
        return "${"
    body = _BODY.fullmatch(match["body"]) if match["end"] else None
    if not body:
        fix = "Write ${name} or ${name:-default}; $${ is a literal ${."
        raise error("SPS-SPEC-VARIABLE", f"Expected ${{name}}, got {match[0]!r}.", fix, at=at)
    name, default = body["name"], body["default"]
    value = variables.get(name, environment.get(name))
    if not value and default is not None:
        return str(default)
    if value is None:
        fix = near(name, variables) + f"Give --set {name}=…, the environment variable {name}, or a default."
        raise error("SPS-SPEC-VARIABLE", f"Nothing fills ${{{name}}}.", fix, at=at)
    return value
