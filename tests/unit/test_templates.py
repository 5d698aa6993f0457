"""Templates come from outside: what they may use, what they may not, and how much they may write."""

from __future__ import annotations

import pytest

from fleet import templates
from fleet.errors import BadInputError

ITEM = {"text": "hello", "n": 3}


def test_a_template_is_rendered_over_its_values() -> None:
    source = "{{ item.text | upper }} {{ item.n * 2 }}{% for x in items %} {{ x }}{% endfor %} {{ item | tojson }}"
    assert templates.render(source, {"item": ITEM, "items": [1, 2]}) == 'HELLO 6 1 2 {"text": "hello", "n": 3}'


def test_markup_and_other_scripts_stay_as_they_are() -> None:
    assert templates.render("{{ item }}", {"item": "<b>ä & ö</b>"}) == "<b>ä & ö</b>"
    assert templates.render("{{ item | tojson }}", {"item": "ä"}) == '"ä"'


@pytest.mark.parametrize(
    "source",
    [
        "{{ item.__class__ }}",
        "{{ item['__class__'].mro() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ item | attr('__class__') }}",
        "{{ item.text.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(item) }}",
        "{{ '{x.__class__}'.format_map({'x': item}) }}",
        "{{ self.__init__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% set f = item.text.format %}{{ f.__self__ }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_no_way_leads_to_the_internals(source: str) -> None:
    try:
        text = templates.render(source, {"item": ITEM})
    except BadInputError:
        return
    assert "class" not in text, text
    assert text == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ item.update({'text': 'changed'}) }}",
        "{{ item.pop('text') }}",
        "{{ item.clear() }}",
        "{{ items.append(1) }}",
        "{{ items.sort() }}",
        "{{ items.extend([1]) }}",
    ],
)
def test_what_it_is_given_cannot_be_changed(source: str) -> None:
    item, items = dict(ITEM), [2, 1]
    with pytest.raises(BadInputError, match=r"unsafe|not safely"):
        templates.render(source, {"item": item, "items": items})
    assert (item, items) == (ITEM, [2, 1])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "source",
    [
        '{{ "x" * 10**9 }}',
        '{{ "x" * 1000000000 }}',
        "{{ [0] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ range(1000000000) | list }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{{ '%1000000000d' | format(1) | length }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) | length }}",
        "{{ 'x'.ljust(1000000000) | length }}",
        "{{ 'x'.rjust(1000000000) | length }}",
        "{{ 'x'.center(1000000000) | length }}",
        "{{ '1'.zfill(1000000000) | length }}",
        "{{ '\\t'.expandtabs(1000000000) | length }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ lipsum(1000000) }}",
        "{{ 1 | round(1) | string | wordwrap(1, wrapstring='x' * 1000000000) }}",
    ],
)
def test_a_few_letters_cannot_take_the_workers_memory(source: str) -> None:
    with pytest.raises(BadInputError):
        templates.render(source, {})


@pytest.mark.timeout(20)
def test_the_text_is_bounded_while_it_is_written() -> None:
    values = {"item": "y" * 100_000, "items": range(90_000)}
    with pytest.raises(BadInputError, match="over 4,000,000 characters"):
        templates.render("{% for i in items %}{{ item }}{% endfor %}", values)
    with pytest.raises(BadInputError, match="over 100,000 characters"):
        templates.render("x" * 100_001, {})


@pytest.mark.parametrize(
    "source",
    [
        "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 26 + "{{ a }}",
        "{% set a %}x{% endset %}",
        "{% macro f() %}x{% endmacro %}",
        "{% for a in items %}{% for b in items %}{% for c in items %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in items recursive %}{{ loop(items) }}{% endfor %}",
    ],
)
def test_what_could_double_itself_or_run_for_ever_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(BadInputError, match="wrong in line 1"):
        templates.names_used(source)
    with pytest.raises(BadInputError, match="wrong in line 1"):
        templates.render(source, {"items": [1]})


def test_a_missing_name_or_field_is_an_error_that_names_it() -> None:
    with pytest.raises(BadInputError, match="'nothing' is undefined"):
        templates.render("{{ nothing }}", {})
    with pytest.raises(BadInputError, match="no attribute 'text'"):
        templates.render("{{ item.text }}", {"item": {}})
    assert templates.render("{{ item.text | default('none') }}", {"item": {}}) == "none"


def test_a_template_that_is_none_says_the_line() -> None:
    with pytest.raises(BadInputError, match="wrong in line 2"):
        templates.names_used("fine\n{{ item.text")
    with pytest.raises(BadInputError, match="nested too deep"):
        templates.names_used("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}")


def test_the_names_and_fields_it_asks_for_are_known_beforehand() -> None:
    source = "{% for x in items %}{{ x.a }}{{ classify.topic }}{% endfor %}{{ goal }}{{ classify['b'] }}"
    assert templates.names_used(source) == {"items", "classify", "goal"}
    assert templates.attributes_used(source) == {("classify", "topic")}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('classify.topic != "other"', True),
        ('classify.topic == "other"', False),
        ("classify.score > 3 and not classify.spam", True),
        ("classify.tags", False),
        ('"x" in classify.topic', False),
        ("classify.missing is defined", False),
    ],
)
def test_conditions_are_expressions_over_the_needs(expression: str, expected: bool) -> None:
    values = {"classify": {"topic": "bug", "score": 4, "spam": False, "tags": []}}
    assert templates.holds(expression, values) is expected
    assert templates.check_expression(expression) == {"classify"}


@pytest.mark.parametrize(
    "expression", ["classify.missing", "classify.score > 'x'", "nothing", "classify.__class__", "1 / 0"]
)
def test_a_condition_that_fails_is_an_error_not_a_no(expression: str) -> None:
    with pytest.raises(BadInputError, match=r"^when: "):
        templates.holds(expression, {"classify": {"score": 1}})


@pytest.mark.parametrize("expression", ["a ==", "{{ a }}", "a }} {{ b"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(BadInputError):
        templates.check_expression(expression)


GROWN = '"a"' + '|replace("a", "aaaaaaaaaaaaaaaa")' * 8


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + GROWN + " }}",
        "{{ (" + GROWN + ")|length }}",
        '{{ [1, 2]|join("' + "x" * 90_000 + '")|list|join("' + "y" * 90 + '") }}',
        "{{ item.replace('a', 'aaaa') }}",
        "{{ ''.join(items) }}",
    ],
)
def test_no_filter_makes_a_long_text_of_a_short_template(source: str) -> None:
    assert templates.names_used(source) <= {"item", "items"}, "looked at, not computed"
    with pytest.raises(BadInputError):
        templates.render(source, {"item": "a", "items": ["a"]})


def test_filters_of_texts_do_what_they_say() -> None:
    values = {"item": {"a": "x-y-x", "b": [{"n": 1}, {"n": 2}]}}
    source = (
        '{{ item.a|replace("x", "z") }} {{ item.a|replace("x", "z", 1) }} {{ item.b|join(", ", attribute="n") }} '
        "{{ item.b|tojson }} {{ item.b|tojson(indent=10000)|length < 100 }}"
    )
    assert templates.render(source, values) == 'z-y-z z-y-x 1, 2 [{"n": 1}, {"n": 2}] True'


def test_names_of_loops_are_their_own() -> None:
    source = "{% for x in items if x %}{{ x.y }}{{ loop.index }}{{ goal }}{% else %}{{ item }}{% endfor %}"
    assert templates.names_used(source) == {"items", "goal", "item"}
    assert templates.names_used("{% for x in items %}{% endfor %}{{ x }}") == {"items", "x"}
    assert templates.names_used("{% with a = item %}{{ a }}{{ b }}{% endwith %}") == {"item", "b"}


def test_the_turns_of_all_loops_together_are_bounded() -> None:
    source = "{% for a in items %}{% for b in items %}{% endfor %}{% endfor %}{{ items | length }}"
    assert templates.render(source, {"items": list(range(400))}) == "400"
    with pytest.raises(BadInputError, match="turns of its loops"):
        templates.render(source, {"items": list(range(1_000))})
    looped = "{% for a in items %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}"
    assert templates.render(looped, {"items": ["a", "b"]}) == "1/2,2/2"
