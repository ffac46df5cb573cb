from __future__ import annotations

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
