"""The rules of the house as functions: each takes one source file and yields what breaks the rule, with its line."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_NESTED_FUNCTION_LINES = 5
MAX_NESTING = 4
MAX_POSITIONAL = 5
SHIPPED = ("sparkscore", "jobs")

Broken = Iterator[tuple[int, str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file: its path relative to the repository, and its text."""

    path: PurePosixPath
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def is_product(self) -> bool:
        return self.path.parts[0] == "sparkscore"

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


def file_size(source: Source) -> Broken:
    if len(source.lines) > MAX_FILE_LINES:
        yield 1, f"{len(source.lines)} lines, more than {MAX_FILE_LINES}"


def function_size(source: Source) -> Broken:
    for node in source.nodes(*Function.__args__):
        lines = node.end_lineno - node.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield node.lineno, f"function {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def nested_function_size(source: Source) -> Broken:
    if source.path.parts[0] not in SHIPPED:
        return
    for outer in source.nodes(*Function.__args__):
        for node in ast.walk(outer):
            if node is outer or not isinstance(node, Function):
                continue
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_NESTED_FUNCTION_LINES:
                yield node.lineno, f"nested function {node.name} has {lines} lines, more than 5"


_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def nesting(source: Source) -> Broken:
    for function in source.nodes(*Function.__args__):
        deepest = max(_depths(function, 0))
        if deepest > MAX_NESTING:
            yield function.lineno, f"function {function.name} nests {deepest} deep, more than {MAX_NESTING}"


def _depths(node: ast.AST, depth: int) -> Iterator[int]:
    yield depth
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        yield from _depths(child, depth + (isinstance(child, _BLOCKS) and not is_elif))


def positional_parameters(source: Source) -> Broken:
    for node in source.nodes(*Function.__args__):
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
        if len(names) > MAX_POSITIONAL and not node.name.startswith("test_"):  # pytest hands out fixtures by name
            yield node.lineno, f"function {node.name} takes {len(names)} positional parameters, more than 5"


def sentence_at_the_top(source: Source) -> Broken:
    first = (ast.get_docstring(source.tree) or "").split("\n\n")[0].strip()
    if not first.endswith((".", ".``", "?")) or not first[:1].strip():
        yield 1, "no sentence at the top of the module"


def docstrings(source: Source) -> Broken:
    """Public functions, classes and methods of the product say what they do; overrides of a protocol need not."""
    if not source.is_product:
        return
    for holder in (source.tree, *source.nodes(ast.ClassDef)):
        if isinstance(holder, ast.ClassDef) and holder.name.startswith("_"):
            continue
        for node in holder.body:
            if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    yield node.lineno, f"{node.name} has no docstring"


_VAGUE_MODULES = re.compile(r"(utils?|helpers?|commons?|core|base|managers?)$")
_VAGUE_FUNCTIONS = re.compile(r"_?(predict|infer|process|handle|manage|do)(_|$)")


def names(source: Source) -> Broken:
    for part in (*source.path.parts[:-1], source.path.stem):
        if _VAGUE_MODULES.match(part):
            yield 1, f"a module called {part} says nothing"
    if source.is_product:
        for node in source.nodes(*Function.__args__):
            if _VAGUE_FUNCTIONS.match(node.name):
                yield node.lineno, f"function {node.name}: name what it does (our verb is score)"


# What fails on Spark Connect, or on serverless compute (platforms.md §4).
FORBIDDEN_ON_CONNECT = {"sparkContext", "_sc", "_jvm", "_jsc", "_jdf", "_jsparkSession", "_jreader", "rdd"}
FORBIDDEN_ON_CONNECT |= {"accumulator", "broadcast", "setJobGroup", "localCheckpoint", "registerProgressHandler"}
FORBIDDEN_ON_CONNECT |= {"createGlobalTempView", "createOrReplaceGlobalTempView"}
_FORBIDDEN_CALLS = frozenset({"cache", "persist"})
ALLOWED: dict[str, frozenset[str]] = {}  # file -> names; the stream autoscaler's backend will be the one entry


def spark_connect(source: Source) -> Broken:
    if source.path.parts[0] not in SHIPPED:
        return
    allowed = ALLOWED.get(str(source.path), frozenset())
    for line, name in (*_attributes(source), *_frame_calls(source)):
        if name not in allowed:
            yield line, f"{name} does not work on Spark Connect"


def _attributes(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes(ast.Attribute):
        is_hint = node.attr == "broadcast" and isinstance(node.value, ast.Name) and node.value.id == "F"
        if node.attr in FORBIDDEN_ON_CONNECT and not is_hint:
            yield node.lineno, node.attr


def _frame_calls(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes(ast.Call):
        words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        text = ast.unparse(node.func)
        if text == "getattr" and FORBIDDEN_ON_CONNECT.intersection(map(str, words)):
            yield node.lineno, next(str(word) for word in words if word in FORBIDDEN_ON_CONNECT)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _FORBIDDEN_CALLS and text != "functools.cache":
            yield node.lineno, f"{node.func.attr}()"
        if text == "isinstance" and re.search(r"\b(SparkSession|DataFrame)\b", ast.unparse(node.args[1])):
            yield node.lineno, "isinstance of a session or frame"


def no_notes_to_self(source: Source) -> Broken:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
            yield token.start[0], "a note to oneself: file an issue, or do it"


def no_print(source: Source) -> Broken:
    if source.is_product and "cli" not in source.path.parts:
        for node in source.nodes(ast.Call):
            if ast.unparse(node.func) == "print":
                yield node.lineno, "print outside the command line"


def errors_are_ours(source: Source) -> Broken:
    """A public function raises the tree of errors.py, or what Python's own protocols ask for (KeyError, …)."""
    if not source.is_product:
        return
    for function in source.nodes(*Function.__args__):
        if function.name.startswith("_") and function.name != "__init__":
            continue
        for node in (n for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc):
            raised = ast.unparse(node.exc).split("(")[0]
            if raised in ("Exception", "ValueError", "RuntimeError", "OSError"):
                yield node.lineno, f"raise {raised}: give it a code of errors.CODES"


def broad_except(source: Source) -> Broken:
    for node in source.nodes(ast.ExceptHandler):
        caught = ast.unparse(node.type) if node.type else "BaseException"
        if re.search(r"\b(Base)?Exception\b", caught) and "# boundary:" not in source.lines[node.lineno - 1]:
            yield node.lineno, "a broad except without `# boundary: reason`"


def known_codes(source: Source) -> Broken:
    """A misspelt code would show only when the error is raised."""
    if not source.is_product:
        return
    from sparkscore.errors import CODES

    for node in source.nodes(ast.Constant):
        if isinstance(node.value, str) and re.fullmatch(r"SPS(-[A-Z]+)+", node.value) and node.value not in CODES:
            yield node.lineno, f"{node.value} is not in errors.CODES"


RULES: dict[str, Callable[[Source], Broken]] = {
    rule.__name__: rule
    for rule in (
        file_size,
        function_size,
        nested_function_size,
        nesting,
        positional_parameters,
        sentence_at_the_top,
        docstrings,
        names,
        spark_connect,
        no_notes_to_self,
        no_print,
        errors_are_ours,
        broad_except,
        known_codes,
    )
}
