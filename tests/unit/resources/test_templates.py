from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pushserver.resources.templates import MAX_OUTPUT, MAX_TURNS, Templates, TooMuch

FILE = "order.html"


def render(folder: Path, text: str, **values: Any) -> str:
    (folder / FILE).write_text(text)
    return Templates(str(folder)).render(FILE, values)


def problem(folder: Path, text: str, **values: Any) -> str:
    """The description of the error of this template."""
    (folder / FILE).write_text(text)
    templates = Templates(str(folder))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        templates.render(FILE, values)
    return templates.describe(FILE, caught.value)


def test_data_never_becomes_markup(tmp_path: Path) -> None:
    text = render(tmp_path, '<a title="{{ a }}">{{ a }}</a>', a="<script>'\"&")
    assert text == '<a title="&lt;script&gt;&#39;&#34;&amp;">&lt;script&gt;&#39;&#34;&amp;</a>'


def test_a_field_precedes_a_method_of_the_same_name(tmp_path: Path) -> None:
    assert render(tmp_path, "{{ data.items }} {{ data.count }}", data={"items": 1, "count": 2}) == (
        "1 2"
    )
    assert render(
        tmp_path, "{% for k, v in data.items() %}{{ k }}{{ v }}{% endfor %}", data={"a": 1}
    ) == ("a1")


def test_a_missing_field_is_false_and_otherwise_an_error(tmp_path: Path) -> None:
    assert render(tmp_path, "{% if data.a %}x{% else %}y{% endif %}", data={}) == "y"
    assert render(tmp_path, "{{ data.a|default('z') }}", data={}) == "z"
    error = problem(tmp_path, "\n{{ data.a }}", data={})
    assert error == "order.html, line 2: UndefinedError: 'dict object' has no attribute 'a'"


ENDLESS = {
    "two loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a loop that calls itself": (
        "{% for i in range(2) recursive %}{{ loop(range(2)) }}{{ loop(range(2)) }}{% endfor %}"
    ),
    "a macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "itself": "{% include 'order.html' %}{% include 'order.html' %}",
    "itself as its parent": "{% extends data or 'order.html' %}",
    "a range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "a text": "{{ 'x' * 10 ** 9 }}",
    "a list": "{{ [0] * 10 ** 9 }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a product": "{{ (10 ** 1000) * (10 ** 1000) }}",
    "output": "{% for i in range(9999) %}{{ text }}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_ended(tmp_path: Path, name: str) -> None:
    (tmp_path / FILE).write_text(ENDLESS[name])
    with pytest.raises((TooMuch, RecursionError)):
        Templates(str(tmp_path)).render(FILE, {"text": "x" * 1000, "data": ""})


TOO_LARGE = {
    "a width": "{{ 'x'|center(n) }}",
    "the width of a method": "{{ 'x'.ljust(n) }}",
    "the width of markup": "{{ ('x'|safe).zfill(n) }}",
    "tabs": "{{ '\t'.expandtabs(n) }}",
    "lines": "{{ text|indent(n) }}",
    "a row": "{{ [1]|batch(n, 0)|list }}",
    "lists": "{{ [1]|slice(n)|list }}",
    "ends of lines": "{{ text|wordwrap(1, wrapstring=text) }}",
    "a text in a text": "{{ text|replace('', text) }}",
    "a text in a text by a method": "{{ text.replace('x', text) }}",
    "a text between items": "{{ range(2000)|join(text) }}",
    "a text between items by a method": "{{ text.join(text) }}",
    "a text between items of a loop": "{{ range(2000)|map('string')|join(text) }}",
    "a sum": "{{ ([[1]] * 20000)|sum(start=[]) }}",
    "a precision": "{{ 1|round(n, 'floor') }}",
    "spaces": "{{ [1]|tojson(n) }}",
    "a conversion": "{{ '%99999999d' % 1 }}",
    "the width of a conversion": "{{ '%0*d' % (n, 1) }}",
    "a precision of a conversion": "{{ '%.*f'|format(n, 1.0) }}",
    "a field": "{{ '{:99999999}'.format(1) }}",
    "the width of a field": "{{ '{:{w}}'.format(1, w=n) }}",
    "a field by its name": "{{ '{a:{b}}'.format_map({'a': 1, 'b': n}) }}",
    "a sum of texts": "{% set x = namespace(a=text) %}"
    "{% for i in range(30) %}{% set x.a = x.a + x.a %}{% endfor %}",
    "texts behind each other": "{% set x = namespace(a=text) %}"
    "{% for i in range(30) %}{% set x.a = x.a ~ x.a %}{% endfor %}",
    "what a block writes": "{% set x = namespace(a=text) %}"
    "{% for i in range(30) %}{% set x.a %}{{ x.a }}{{ x.a }}{% endset %}{% endfor %}",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_nothing_larger_than_the_output_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / FILE).write_text(TOO_LARGE[name])
    templates = Templates(str(tmp_path))
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch, match="more than 1048576"):
            templates.render(FILE, {"text": "x" * 2000, "n": 40_000_000})
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("{{ 'x'|center(3) }}|{{ 'x'.rjust(2) }}", " x | x"),
        ("{{ 'a\nb'|indent(1) }}|{{ 'a\nb'|indent('>') }}", "a\n b|a\n&gt;b"),
        (
            "{{ [1, 2, 3]|batch(2, 0)|list }}{{ [1, 2]|slice(2)|list }}",
            "[[1, 2], [3, 0]][[1], [2]]",
        ),
        ("{{ 'a b'|wordwrap(1) }}|{{ 'aa'|replace('a', '<') }}", "a\nb|&lt;&lt;"),
        ("{{ [1, 2]|join(', ') }}{{ [[1], [2]]|sum(start=[]) }}", "1, 2[1, 2]"),
        ("{{ 'a'|map('upper')|join }}{{ [{'a': 1}]|join(attribute='a') }}", "A1"),
        ("{{ 1.26|round(1) }}{{ [1]|tojson(1) }}", "1.3[\n 1\n]"),
        ("{{ '%05.1f%%' % n }}{{ '%s'|format(n) }}", "40000000.0%40000000"),
        ("{{ '{:,}|{}'.format(n, n) }}{{ '%(a)3d' % {'a': 1} }}", "40,000,000|40000000  1"),
        ("{{ 'a' ~ 1 ~ '<' }}{{ '<'|safe ~ '<' }}", "a1&lt;<&lt;"),
        ("{{ 1 + 2 }}{{ 7 % 4 }}{{ 'a' + 'b' }}{{ [1] + [2] }}", "33ab[1, 2]"),
    ],
)
def test_what_is_no_larger_is_made(tmp_path: Path, text: str, made: str) -> None:
    assert render(tmp_path, text, n=40_000_000) == made


def test_no_turn_begins_after_the_time_of_a_rendering(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{% for i in range(9) %}{{ i }}{% endfor %}")
    now = iter(range(100))
    templates = Templates(str(tmp_path), monotonic=lambda: next(now) / 10)
    with pytest.raises(TooMuch, match=r"more than 0\.5 seconds"):
        templates.render(FILE, {})
    assert next(now) < 10


def test_each_rendering_has_all_turns(tmp_path: Path) -> None:
    text = "{% for i in range(15000) %}{% if loop.last %}{{ loop.length }}{% endif %}{% endfor %}"
    (tmp_path / FILE).write_text(text)
    templates = Templates(str(tmp_path))
    assert [templates.render(FILE, {}) for _ in range(3)] == ["15000"] * 3
    assert MAX_TURNS < 30_000


def test_no_more_is_written_than_the_bound(tmp_path: Path) -> None:
    half = "x" * (MAX_OUTPUT // 2)
    assert len(render(tmp_path, "{{ a }}{{ a }}", a=half)) == MAX_OUTPUT
    assert "more than 1048576 characters" in problem(tmp_path, "{{ a }}{{ a }}y", a=half)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ data.append(1) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% include '../secret' %}",
        "{{ lipsum(n=10000) }}",
    ],
)
def test_a_template_has_nothing_but_its_values(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    assert problem(folder, text, data=[])


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    assert problem(tmp_path, "a\n{% if %}") == (
        "order.html, line 2: Expected an expression, got 'end of statement block'"
    )
    assert problem(tmp_path, "{% include 'none.html' %}") == (
        f"there is no 'none.html' in {tmp_path}"
    )
    assert problem(tmp_path, "\n{% extends 'order.html' %}") == (
        "order.html, line 2: it extends itself"
    )
    (tmp_path / "part.html").write_text("\n{{ 1 / 0 }}")
    error = problem(tmp_path, "{% include 'part.html' %}")
    assert error == "part.html, line 2: ZeroDivisionError: division by zero"
    error = problem(tmp_path, ENDLESS["two loops"])
    assert error == "order.html, line 1: more than 20000 turns of loops and calls of macros"
    # Nothing of the template of one rendering counts in the next one.
    assert render(tmp_path, "{{ 1 }}") == "1"


def test_a_file_is_compiled_once_for_all_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.html").write_text("{{ data }}")
    (tmp_path / FILE).write_text("{% include data %}")
    Templates(str(tmp_path)).render(FILE, {"data": "a.html"})
    # As after a reload, which makes the object again.
    templates = Templates(str(tmp_path))
    compiled = []
    monkeypatch.setattr("jinja2.environment.Environment._compile", lambda *of: compiled.append(of))
    for name in ("a.html", "./a.html", "/".join("." * 99) + "/a.html"):
        assert templates.render(FILE, {"data": name}) == name
    assert compiled == []


def test_a_changed_file_is_compiled_anew(tmp_path: Path) -> None:
    assert render(tmp_path, "{{ 1 }}") == "1"
    assert render(tmp_path, "{{ 2 }}") == "2"
