"""The allow-list of SQL expressions: what a data person writes passes with its meaning, everything else is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkscore.errors import SpecError
from sparkscore.spec.expressions import needed_names, render

ACCEPTED = [
    ("a", "`a`"),
    ("amount > 0", "`amount` > 0"),
    ("day = '2013-01-01'", "`day` = '2013-01-01'"),
    ("log1p(amount)", "LOG1P(`amount`)"),
    ("log10(a)", "LOG10(`a`)"),
    ("log(2, a)", "LOG(2, `a`)"),
    ("a + b * c - d / e", "`a` + `b` * `c` - `d` / `e`"),
    ("(a + b) * c", "(`a` + `b`) * `c`"),
    ("a % 7 = 3", "`a` % 7 = 3"),
    ("mod(a + 1, b)", "MOD(`a` + 1, `b`)"),
    ("a div 2", "`a` DIV 2"),
    ("-a", "-`a`"),
    ("- -a", "- -`a`"),
    ("a & 3 | b ^ ~c", "`a` & 3 | `b` ^ ~`c`"),
    ("not a and b or c", "NOT `a` AND `b` OR `c`"),
    ("!a", "NOT `a`"),
    ("a == b and c != d", "`a` = `b` AND `c` <> `d`"),
    ("a <=> b", "`a` IS NOT DISTINCT FROM `b`"),
    ("a is null or b is not null", "`a` IS NULL OR NOT `b` IS NULL"),
    ("a is true", "`a` IS TRUE"),
    ("a in (1, 2) and b not in ('x')", "`a` IN (1, 2) AND NOT `b` IN ('x')"),
    ("a between 1 and 2", "`a` BETWEEN 1 AND 2"),
    ("name like 'A%' and name ilike '%b'", "`name` LIKE 'A%' AND `name` ILIKE '%b'"),
    ("name like '10/%' escape '/'", "`name` LIKE '10/%' ESCAPE '/'"),
    ("name rlike '\\\\d+'", "`name` RLIKE '\\\\d+'"),
    ("rlike(name, 'x')", "RLIKE(`name`, 'x')"),
    ("case when a > 1 then 'x' else 'y' end", "CASE WHEN `a` > 1 THEN 'x' ELSE 'y' END"),
    ("case a when 1 then 2 end", "CASE `a` WHEN 1 THEN 2 END"),
    ("if(a > 1, b, c)", "IF(`a` > 1, `b`, `c`)"),
    ("coalesce(a, b, 0)", "COALESCE(`a`, `b`, 0)"),
    ("nvl(a, 0)", "NVL(`a`, 0)"),
    ("nanvl(a, 0D)", "NANVL(`a`, CAST(0 AS DOUBLE))"),
    ("cast(a as double)", "CAST(`a` AS DOUBLE)"),
    ("try_cast(a as int)", "TRY_CAST(`a` AS INT)"),
    ("a::decimal(10, 2)", "CAST(`a` AS DECIMAL(10, 2))"),
    ("cast(a as array<double>)", "CAST(`a` AS ARRAY<DOUBLE>)"),
    ("float(a)", "FLOAT(`a`)"),
    ("try_divide(a, b)", "TRY_DIVIDE(`a`, `b`)"),
    ("round(a, 2)", "ROUND(`a`, 2)"),
    ("greatest(a, b)", "GREATEST(`a`, `b`)"),
    ("substring(s, 1, 3) || upper(t)", "SUBSTRING(`s`, 1, 3) || UPPER(`t`)"),
    ("concat_ws('-', a, b)", "CONCAT_WS('-', `a`, `b`)"),
    ("regexp_extract(s, '(a)(b)', 1)", "REGEXP_EXTRACT(`s`, '(a)(b)', 1)"),
    ("split(s, ',')[0]", "SPLIT(`s`, ',')[0]"),
    ("lpad(s, 4, '0')", "LPAD(`s`, 4, '0')"),
    ("to_date(s, 'yyyy-MM-dd')", "TO_DATE(`s`, 'yyyy-MM-dd')"),
    ("date_format(t, 'EEE HH:mm:ss.SSS')", "DATE_FORMAT(`t`, 'EEE HH:mm:ss.SSS')"),
    ("date_add(d, 1) > date '2013-01-01'", "DATE_ADD(`d`, 1) > CAST('2013-01-01' AS DATE)"),
    ("t + interval 2 hours", "`t` + INTERVAL '2' HOURS"),
    ("hour(t) + dayofweek(t)", "HOUR(`t`) + DAYOFWEEK(`t`)"),
    ("extract(hour from t)", "EXTRACT(HOUR FROM `t`)"),
    ("unix_timestamp(t)", "UNIX_TIMESTAMP(`t`)"),
    ("element_at(m, 'k')", "ELEMENT_AT(`m`, 'k')"),
    ("v[0] + m['k']", "`v`[0] + `m`['k']"),
    ("s.a.b + items[0].price", "`s`.`a`.`b` + `items`[0].`price`"),
    ("array(a, b, c)", "ARRAY(`a`, `b`, `c`)"),
    ("size(v) = 3 and array_contains(v, 1)", "SIZE(`v`) = 3 AND ARRAY_CONTAINS(`v`, 1)"),
    ("`odd name` + `a.b` + `we``ird`", "`odd name` + `a.b` + `we``ird`"),
    ("'it\\'s' = \"it's\"", "'it\\'s' = 'it\\'s'"),
    ("a -- a remark", "`a`"),
    ("/*+ broadcast */ a", "`a`"),
    ("date > 1 and user = 'x'", "`date` > 1 AND `user` = 'x'"),
    ("1.5BD + 1L", "CAST('1.5' AS DECIMAL(2, 1)) + CAST(1 AS BIGINT)"),
    ("true and null is null", "TRUE AND NULL IS NULL"),
]

REFUSED = [
    ("", "none"),
    ("-- only a remark", "none"),
    ("java_method('java.lang.Runtime', 'exec', 'ls')", "java_method"),
    ("reflect('java.lang.System', 'exit', '0')", "reflect"),
    ("try_reflect('java.lang.System', 'exit', '0')", "try_reflect"),
    ("(select 1)", "subquery"),
    ("exists(select 1)", "subquery"),
    ("a in (select b from t)", "IN without a list"),
    ("coalesce(a, (select max(b) from t))", "subquery"),
    ("*", "star"),
    ("t.*", "star"),
    ("count(*)", "count"),
    ("sum(a)", "sum"),
    ("max(distinct a)", "max"),
    ("collect_list(a)", "collect_list"),
    ("sum(a) over (order by b)", "window"),
    ("row_number() over (order by b)", "window"),
    ("explode(v)", "explode"),
    ("transform(v, x -> x + 1)", "function"),
    ("filter(v, x -> x > 1)", "filter"),
    ("aggregate(v, 0, (x, y) -> x + y)", "aggregate"),
    ("rand()", "rand"),
    ("randn(1)", "randn"),
    ("uuid()", "uuid"),
    ("shuffle(v)", "shuffle"),
    ("monotonically_increasing_id()", "monotonically_increasing_id"),
    ("spark_partition_id()", "spark_partition_id"),
    ("input_file_name()", "input_file_name"),
    ("current_timestamp", "function"),
    ("current_timestamp()", "current_timestamp"),
    ("current_date", "function"),
    ("current_user()", "current_user"),
    ("now()", "now"),
    ("unix_timestamp()", "0 arguments"),
    ("raise_error('x')", "raise_error"),
    ("assert_true(a)", "assert_true"),
    ("repeat('x', 1000000000)", "repeat"),
    ("sequence(1, 1000000000)", "sequence"),
    ("aes_decrypt(a, 'k')", "aes_decrypt"),
    ("read_files('s3://x')", "read_files"),
    ("ai_query('m', a)", "ai_query"),
    ("my_udf(a)", "my_udf"),
    ("`my_udf`(a)", "my_udf"),
    ("db.my_udf(a)", "qualified"),
    ("system.builtin.java_method('a', 'b')", "qualified"),
    ("{fn java_method('a', 'b')}", "java_method"),
    ("${v}", ""),
    ("$v", "variable"),
    (":v", "variable"),
    ("@v", "variable"),
    ("?", "variable"),
    ("session.v := 1", "parse"),
    ("a; drop table t", "parse"),
    ("drop table t", "parse"),
    ("1 = 1 union select 2", "parse"),
    ("a from t", "parse"),
    ("a, b", "parse"),
    ("a as b", "parse"),
    ("a) or (1 = 1", "parse"),
    ("(a", "parse"),
    ("'a", "parse"),
    ("cast(a as a_user_type)", "parse"),
    ("date_add(day, 1, d)", "3 arguments"),
    ("'it''s'", "side by side"),
    ("a[1:2]", "slice"),
    ("array(1, 2)[0]", "function"),
    ("a like any ('x')", "any"),
    ("variant:field", "parse"),
    ("from_json(s, 'a int', map('mode', 'FAILFAST'))", "from_json"),
    ("from_csv(s, 'a int')", "from_csv"),
    ("schema_of_json(s)", "schema_of_json"),
    ("input_file_block_start()", "input_file_block_start"),
    ("http_request('http://x')", "http_request"),
    ("version()", "version"),
    ("JAVA_METHOD('a', 'b')", "java_method"),
    ("`java_method`('a', 'b')", "java_method"),
    ("java_method/**/('a', 'b')", "java_method"),
    ("java_method -- (a\n('a', 'b')", "java_method"),
    ("ｊａｖａ_method('a', 'b')", "not on the list"),
    ("java_method\u200b('a', 'b')", "not on the list"),
    ("java\0_method('a', 'b')", "not on the list"),
    ("'a' 'b'", "side by side"),
    ("'a\\' or reflect('a', 'b')", "parse"),
    ("if(a, reflect('a', 'b'), 1)", "reflect"),
    ("a in ('x', reflect('a', 'b'))", "reflect"),
    ("interval reflect('a', 'b') day", "reflect"),
    ("extract(day from reflect('a', 'b'))", "reflect"),
    ("cast(reflect('a', 'b') as int)", "reflect"),
    ("array_sort(v, (l, r) -> reflect('a', 'b'))", "lambda"),
    ("identifier('java_method')('a', 'b')", "parse"),
    ("case when exists (select 1) then 1 end", "subquery"),
    ("a between (select 1) and 2", "subquery"),
    ("case when a then (values (1)) end", "subquery"),
    ("${env:HOME}", "variable"),
    ("lpad(s, 1000000000, '0')", "length of 1000000000"),
    ("rpad(s, a, '0')", "length of a"),
    ("(" * 2000 + "a" + ")" * 2000, "parse"),
    ("a + " * 6000 + "a", "characters"),
]


@pytest.mark.parametrize(("text", "rendered"), ACCEPTED)
def test_an_honest_expression_is_written_again_with_its_meaning(text: str, rendered: str) -> None:
    assert render(text, "here") == rendered


@pytest.mark.parametrize(("text", "_rendered"), ACCEPTED)
def test_a_rendered_expression_renders_to_itself(text: str, _rendered: str) -> None:
    once = render(text, "here")
    assert render(once, "here") == once


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_anything_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        render(text, "prepare[0].with.x")
    assert caught.value.code == "SPS-SPEC-EXPRESSION"
    assert says in caught.value.message
    assert caught.value.context["at"] == "prepare[0].with.x"


def test_the_lists_are_as_long_as_promised() -> None:
    assert len(ACCEPTED) >= 40
    assert len(REFUSED) >= 40


def test_the_names_that_spark_takes_for_functions_are_told_from_texts_and_calls() -> None:
    text = "user = 'current_date' and year(a) > b.session_user and t < `Current_Timestamp`"
    assert needed_names(render(text, "here")) == {"user", "current_timestamp"}


def test_a_misspelt_function_is_answered_with_near_names() -> None:
    with pytest.raises(SpecError, match="'coalesce'"):
        render("coalesc(a, b)", "here")


def test_a_long_chain_is_rendered_or_refused_but_never_crashes() -> None:
    with contextlib.suppress(SpecError):
        assert render(" + ".join(["a"] * 4000), "here").count("`a`") == 4000


@given(st.text(alphabet="ab`'\"\\(),.;:*-/$@?{}[]<>=! \n1eselctfromjavhd_%+|&^~", max_size=60))
def test_any_text_is_refused_or_renders_to_a_fixed_point(text: str) -> None:
    with contextlib.suppress(SpecError):
        once = render(text, "here")
        assert render(once, "here") == once


@given(st.text(max_size=40))
def test_a_text_literal_can_never_leave_its_quotes(value: str) -> None:
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    try:
        rendered = render(f"a = {quoted}", "here")
    except SpecError:
        return
    assert rendered.startswith("`a` = '")
    body = rendered.removeprefix("`a` = '").removesuffix("'").replace("\\\\", "").replace("\\'", "")
    assert "'" not in body
