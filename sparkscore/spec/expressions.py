"""SQL expressions of the pipeline file: parsed, let through an allow-list, and written again from the parsed tree.

What reaches Spark is the re-rendered tree with every identifier in backticks, never the user's text, so that a
difference between two parsers cannot carry anything through.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.spark import Spark
from sqlglot.errors import ErrorLevel, SqlglotError

from sparkscore.errors import SparkscoreError, error
from sparkscore.spec.fields import near

_MAX_CHARS = 20_000

# Deterministic functions of one row, by their Spark names. Left out on purpose: everything that depends on time, user,
# session, file or chance; aggregates, generators, windows and lambdas; java_method and reflect; raise_error; and
# what makes a large value out of a small one (repeat, space, sequence, array_repeat, format_string).
_NAMES = """
abs acos acosh asin asinh atan atan2 atanh bin bit_count bround cbrt ceil ceiling conv cos cosh cot csc degrees e
exp expm1 factorial floor greatest hypot isnan least ln log log10 log1p log2 mod nanvl negative pi pmod positive
pow power radians rint round sec shiftleft shiftright shiftrightunsigned sign signum sin sinh sqrt tan tanh
try_add try_divide try_mod try_multiply try_subtract width_bucket

ascii base64 bit_length btrim char char_length character_length chr concat concat_ws contains crc32 decode encode
endswith find_in_set format_number get_json_object hash hex initcap instr lcase left length levenshtein locate
lower lpad ltrim md5 octet_length parse_url regexp_count regexp_extract regexp_extract_all regexp_instr
regexp_like regexp_replace regexp_substr replace reverse right rlike rpad rtrim sha sha1 sha2 soundex split
split_part startswith substr substring substring_index to_binary to_char to_number translate trim try_to_binary
try_to_number ucase unbase64 unhex upper url_decode url_encode xxhash64

add_months date date_add date_diff date_format date_from_unix_date date_part date_sub date_trunc datediff day
dayofmonth dayofweek dayofyear from_unixtime from_utc_timestamp hour last_day make_date make_timestamp minute
month months_between next_day quarter second timestamp timestamp_micros timestamp_millis timestamp_seconds to_date
to_timestamp to_unix_timestamp to_utc_timestamp trunc try_to_date try_to_timestamp unix_date unix_micros
unix_millis unix_seconds unix_timestamp weekday weekofyear year

bigint binary boolean coalesce decimal double equal_null float if ifnull int isnotnull isnull nullif nullifzero
nvl nvl2 smallint string tinyint zeroifnull

array array_append array_compact array_contains array_distinct array_except array_intersect array_join array_max
array_min array_position array_remove array_size array_sort array_union arrays_overlap cardinality element_at
flatten get map_contains_key map_keys map_values size slice sort_array try_element_at
"""
_FUNCTIONS = frozenset(_NAMES.split())

_NODES = (
    *(exp.Column, exp.Identifier, exp.Dot, exp.Bracket, exp.Literal, exp.Boolean, exp.Null, exp.RawString),
    *(exp.Case, exp.If, exp.Cast, exp.TryCast, exp.DataType, exp.DataTypeParam, exp.Paren, exp.Interval, exp.Var),
    *(exp.Extract, exp.Anonymous),
    *(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.DPipe),
    *(exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor, exp.BitwiseNot),
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ),
    *(exp.And, exp.Or, exp.Not, exp.In, exp.Between, exp.Is, exp.Like, exp.ILike, exp.RegexpLike, exp.Escape),
)


# Calls that read the clock without an argument, or take a unit in place of a column with three of them.
_ARGUMENTS = {
    "unix_timestamp": (1, 2),
    "to_unix_timestamp": (1, 2),
    "date_add": (2, 2),
    "date_diff": (2, 2),
    "date_sub": (2, 2),
    "datediff": (2, 2),
}

# Calls that pad a small value to any length.
_PADDING = ("lpad", "rpad")
_MAX_PADDED = 10_000

# Names that Spark reads as functions of the clock or the session where no column has them, also in backticks
# (its LiteralFunctionResolution, 4.2).
_NAMES_OF_FUNCTIONS = frozenset(
    [
        *("current_catalog", "current_database", "current_date", "current_schema", "current_time", "current_timestamp"),
        *("current_user", "grouping__id", "localtime", "localtimestamp", "session_user", "user"),
    ]
)

_WORDS: dict[type[exp.Expr], str] = {
    exp.Query: "a subquery",
    exp.Exists: "a subquery",
    exp.Star: "a star",
    exp.Window: "a window",
    exp.Lambda: "a lambda",
    exp.Parameter: "a variable",
    exp.Placeholder: "a variable",
    exp.Func: "a function",
}


class _Sql(Spark):
    """Spark SQL in which a function call stays the call that was written, instead of one that means about the same."""

    class Parser(Spark.Parser):  # type: ignore[misc, valid-type]  # sqlglot declares it as a variable
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: Spark.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "TRY_CAST", "EXTRACT")
        }


def render(expression: str, where: str) -> str:
    """Check a SQL expression, and write it again as Spark SQL.

    Parameters
    ----------
    expression : str
        Spark SQL over columns and literals.
    where : str
        The key that it stands at, for the error.

    Returns
    -------
    str
        The expression as Spark is to read it.

    Raises
    ------
    SpecError
        SPS-SPEC-EXPRESSION: it does not parse, or holds something outside the allow-list.

    Examples
    --------
    >>> render("amount > 0 and log1p(amount) < 10", "source.where")
    '`amount` > 0 AND LOG1P(`amount`) < 10'
    """
    if len(expression) > _MAX_CHARS:
        raise _refused(f"more than {_MAX_CHARS} characters", "Prepare the data before sparkscore.", where)
    try:
        text = _rendered(expression, where)
        if _rendered(text, where) == text:
            return text
    except (SqlglotError, RecursionError) as cause:
        raise _refused(f"text that does not parse as one{_why(cause)}", "Mend the expression.", where) from cause
    raise _refused("text that reads in two ways", "Write it with parentheses.", where)


def needed_names(rendered: str) -> set[str]:
    """Give the columns of an expression, in lower case, whose names Spark would take for functions without them.

    Examples
    --------
    >>> needed_names("`user` = 'x' AND `t` < `current_date`") == {"user", "current_date"}
    True
    """
    columns = (n for t in _Sql().parse_into(exp.Condition, rendered) if t is not None for n in t.find_all(exp.Column))
    return {column.name.lower() for column in columns if len(column.parts) == 1} & _NAMES_OF_FUNCTIONS


def tree_of(rendered: str) -> exp.Expr:
    """Give the tree of an expression that `render` wrote."""
    (tree,) = _Sql().parse_into(exp.Condition, rendered)
    assert tree is not None, "what was rendered parses"
    return tree


def _rendered(expression: str, where: str) -> str:
    trees = _Sql().parse_into(exp.Condition, expression)
    if len(trees) != 1 or trees[0] is None:
        raise _refused("none, or several", "Write one expression, without a semicolon.", where)
    for node in trees[0].walk():
        _check(node, where)
    return trees[0].sql(dialect=_Sql, identify=True, comments=False, unsupported_level=ErrorLevel.RAISE)


def _why(cause: Exception) -> str:
    details = getattr(cause, "errors", None)
    return f" ({details[0]['description']}, column {details[0]['col']})" if details else ""


def _check(node: exp.Expr, where: str) -> None:
    if isinstance(node, exp.Concat):
        raise _refused("two texts side by side", "Write a quote inside a text as \\', or join texts with ||.", where)
    if type(node) not in _NODES:
        what = next((words for kind, words in _WORDS.items() if isinstance(node, kind)), f"{node.key!r}")
        raise _refused(f"{what}: {_shown(node)}", "Use columns, literals, operators and functions of one row.", where)
    if isinstance(node, exp.Anonymous):
        _check_call(node.name.lower(), len(node.expressions), where)
        _check_padding(node, where)
    if isinstance(node, exp.Dot) and type(node.expression) is not exp.Identifier:
        raise _refused(f"a call with a qualified name: {_shown(node)}", "Call built-in functions by name.", where)
    if isinstance(node, exp.In) and not node.expressions:
        raise _refused(f"IN without a list: {_shown(node)}", "Write `a IN (1, 2)`.", where)


def _check_call(name: str, arguments: int, where: str) -> None:
    if name not in _FUNCTIONS:
        fix = near(name, _FUNCTIONS) + "Only deterministic built-in functions of one row are let through."
        raise _refused(f"function {name!r}, which is not on the list", fix, where)
    least, most = _ARGUMENTS.get(name, (0, arguments))
    if not least <= arguments <= most:
        fix = f"Give {least} arguments." if least == most else f"Give {least} or more arguments."
        raise _refused(f"{name} with {arguments} arguments", fix, where)


def _check_padding(call: exp.Anonymous, where: str) -> None:
    if call.name.lower() not in _PADDING or len(call.expressions) < 2:
        return
    length = call.expressions[1]
    if not (isinstance(length, exp.Literal) and length.name.isdigit() and int(length.name) <= _MAX_PADDED):
        fix = f"Give the length as a number, at most {_MAX_PADDED:,}."
        raise _refused(f"{call.name.lower()} to a length of {_shown(length)}", fix, where)


def _shown(node: exp.Expr) -> str:
    return node.sql(dialect=_Sql)[:80]


def _refused(what: str, fix: str, where: str) -> SparkscoreError:
    message = f"Expected a SQL expression over columns and literals, got {what}."
    return error("SPS-SPEC-EXPRESSION", message, fix, at=where)
