"""The parts of the live page in pages of the user: graph, list and number."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.test_browser import AXE, describe
from tests.page.site import CSP, Site

pytestmark = pytest.mark.slow

PARTS = """
  import { graph, list, number } from "/static/pushserver.js";
  graph("#graph", "numbers");
  list("#list", "numbers");
  number("#number", "numbers");
"""
ELEMENTS = '<div id="graph"></div><div id="list"></div><div id="number"></div>'


def own(script: str, body: str = ELEMENTS, head: str = "") -> str:
    module = f'<script type="module">{script}</script>'
    return f"<!doctype html><title>own</title>{head}<body>{body}{module}"


def one(call: str) -> str:
    """A page with one part; `call` is the function with its arguments after the element."""
    function, _, rest = call.partition("(")
    script = f'import {{ {function} }} from "/static/pushserver.js";'
    return own(f'{script} window.part = {function}("#part", {rest}', '<div id="part"></div>')


def shows_rows(page: Page, *wanted: str) -> None:
    """Wait for these values in the list, newest first."""
    expect(page.locator("li[data-offset] .row-value")).to_have_text(wanted)


def figure(page: Page) -> Locator:
    return page.locator(".figure-value")


def lines(page: Page) -> Locator:
    return page.locator(".legend-item")


def test_the_history_is_shown_at_once_and_then_each_event(site: Site) -> None:
    site.publish({"number": 4.5}, {"number": 4.821})
    page = site.open_own(own(PARTS))
    shows_rows(page, "number 4.821", "number 4.500")
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(figure(page)).to_have_text("4.821")
    site.publish({"number": 7})
    expect(figure(page)).to_have_text("7.000")
    expect(lines(page)).to_have_text(["number7.000"])
    expect(page.locator(".graph")).to_have_attribute("data-points", "3")
    shows_rows(page, "number 7.000", "number 4.821", "number 4.500")
    assert site.subscribers == 1


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("number('numbers')", "21.5"),
        ("number('numbers', {value: 'room.hum'})", "40"),
        ("number('numbers', {value: 'all.1'})", "8"),
        ("number('numbers', {value: 'a.b'})", "6"),
        ("number('numbers', {value: 'id'})", "12345678901234567890"),
        ("number('numbers', {value: (data) => data.temp * 2, unit: '°C'})", "43°C"),
        ("number('numbers', {format: (n) => `<b>${n}</b>`})", "<b>21.5</b>"),
        ("number('numbers', {format: {minimumFractionDigits: 3}})", "21.500"),
        ("number('numbers', {value: 'nothing'})", "–"),
        ("number('numbers', {value: 'name'})", "–"),
        ("number('numbers', {value: 'all.length'})", "–"),
        ("number('numbers', {value: 'constructor.length'})", "–"),
    ],
)
def test_a_number_is_chosen_and_written_as_the_page_says(site: Site, call: str, shown: str) -> None:
    data = {"temp": 21.5, "room": {"hum": 40}, "name": "<i>x</i>", "all": [7, 8], "a.b": 6}
    site.publish({**data, "id": 12345678901234567890})
    page = site.open_own(one(call))
    expect(page.locator(".figure-when")).not_to_be_empty()
    expect(figure(page)).to_have_text(shown)


def test_the_first_number_stays_the_one_that_is_shown(site: Site) -> None:
    site.publish({"temp": 20}, {"wind": 3}, "text", {"wind": 4, "temp": 21})
    expect(figure(site.open_own(one("number('numbers')")))).to_have_text("21")


def test_null_is_no_number(site: Site) -> None:
    site.publish({"temp": 20}, {"temp": None})
    expect(figure(site.open_own(one("number('numbers')")))).to_have_text("–")


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("graph('numbers')", ["temp21.5", "room.hum40", "id12345678901234567890"]),
        ("graph('numbers', {value: 'room.hum'})", ["room.hum40"]),
        ("graph('numbers', {value: ['all.0', 'temp', 'none']})", ["all.07", "temp21.5"]),
        ("graph('numbers', {value: (data) => data.temp + 1})", ["value22.5"]),
        ("graph('numbers', {value: ({all}) => ({first: all[0]})})", ["first7"]),
        ("graph('numbers', {value: 'temp', format: (n) => `${n} °C`})", ["temp21.5 °C"]),
    ],
)
def test_lines_are_chosen_and_written_as_the_page_says(
    site: Site, call: str, shown: list[str]
) -> None:
    site.publish({"temp": 21.5, "room": {"hum": 40}, "all": [7], "id": 12345678901234567890})
    page = site.open_own(one(call))
    expect(lines(page)).to_have_text(shown)
    expect(page.locator("canvas")).to_be_visible()


def test_the_number_of_lines_is_bounded_and_the_graph_says_so(site: Site) -> None:
    site.publish({f"k{index}": index for index in range(12)})
    page = site.open_own(one("graph('numbers')"))
    expect(lines(page)).to_have_count(8)
    expect(page.get_by_text("and more, not drawn")).to_be_visible()


def test_a_list_shows_the_chosen_part_of_as_many_events_as_the_page_wants(site: Site) -> None:
    site.publish(*({"text": f"<b>{n}</b>", "other": n} for n in range(5)), {"other": 6})
    page = site.open_own(one("list('numbers', {value: 'text', last: 3})"))
    shows_rows(page, "<b>4</b>", "<b>3</b>")
    site.publish({"text": "x" * 300, "other": 1})
    page.get_by_role("button", name="Show all of event 7").click()
    expect(page.get_by_role("dialog")).to_contain_text('"other": 1')
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    site.publish({"text": "a"}, {"text": "b"})
    shows_rows(page, "b", "a", "x" * 200)


def test_only_the_named_event_is_shown(site: Site) -> None:
    site.publish(1, event="other")
    site.publish(2, event="mine")
    page = site.open_own(one("list('numbers', {event: 'mine'})"))
    shows_rows(page, "2")
    site.publish(3, event="other")
    site.publish(4, event="mine")
    shows_rows(page, "4", "2")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("graph('numbers')", "The graph begins with the first number."),
        ("list('numbers')", "No events yet."),
        ("number('numbers')", "No events yet."),
    ],
)
def test_an_empty_channel_is_told_from_a_missing_connection(
    site: Site, call: str, words: str
) -> None:
    page = site.open_own(one(call))
    expect(page.get_by_text(words)).to_be_visible()
    site.publish(5)
    expect(page.get_by_text(words)).to_be_hidden()
    expect(page.get_by_text("5", exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("graph('talk')", "No numbers in these events."),
        ("graph('talk', {value: 'room.temp'})", "No numbers in these events at room.temp."),
        ("number('talk')", "No numbers in these events."),
    ],
)
def test_data_without_numbers_is_said(site: Site, call: str, words: str) -> None:
    site.publish("<b>text</b>", {"temp": "warm"})
    expect(site.open_own(one(call)).get_by_text(words)).to_be_visible()


@pytest.mark.parametrize("kind", ["graph", "list", "number"])
def test_a_refusal_is_shown_with_its_reason(site: Site, kind: str) -> None:
    site.refusal = {"code": 103, "message": "permission denied <b>"}
    page = site.open_own(one(f"{kind}('numbers')"))
    words = page.locator("#part").get_by_text("Closed: permission denied <b>")
    expect(words).to_have_count(1)
    expect(words).to_be_visible()


def test_without_a_connection_the_parts_say_so_and_the_number_is_out_of_date(site: Site) -> None:
    site.publish(1)
    page = site.open_own(own(PARTS))
    expect(figure(page)).to_have_text("1")
    expect(page.locator(".figure")).not_to_have_class(re.compile("stale"))
    site.down = True
    site.close(3001, "shutdown")
    expect(page.locator(".figure")).to_have_class(re.compile("stale"))
    expect(page.locator(".figure-when")).to_contain_text("Reconnecting")
    for part in ("#graph", "#list"):
        expect(page.locator(f"{part} .note")).to_contain_text("Reconnecting")
    expect(figure(page)).to_have_text("1")
    site.down = False
    site.publish(2)
    expect(figure(page)).to_have_text("2")
    expect(page.locator(".figure")).not_to_have_class(re.compile("stale"))
    expect(page.locator("#list .note")).to_be_hidden()


def test_a_graph_that_ended_draws_no_plot_when_its_styles_come(site: Site) -> None:
    page = site.open_blank()
    made = page.evaluate("""async () => {
      const { Graph } = await import("/static/js/graph.js");
      const { Points } = await import("/static/js/points.js");
      const make = () => document.body.appendChild(document.createElement("div"));
      const points = new Points(10, 8);
      points.add(1, new Map([["value", 1]]));
      const elements = { graph: make(), legend: make(), at: make(), more: make() };
      const graph = new Graph(elements, points, String);
      let made = 0;
      graph.use(class {
        constructor() { made += 1; }
        destroy() {}
        setSize() {}
      });
      graph.destroy();
      graph.restyle();
      return made;
    }""")
    assert made == 1


@pytest.mark.parametrize("kind", ["graph", "list", "number"])
def test_a_part_says_that_the_page_closed_its_server(site: Site, kind: str) -> None:
    site.publish(1)
    script = f"""
      import {{ connect, {kind} }} from "/static/pushserver.js";
      window.server = connect();
      window.errors = [];
      window.addEventListener("error", ({{ message }}) => errors.push(message));
      window.add = () => {kind}("#part", "numbers", {{ server }});
      add();
    """
    page = site.open_own(own(script, '<div id="part"></div>'))
    site.wait_for(page, lambda: site.subscribers == 1)
    page.evaluate("server.close()")
    expect(page.get_by_text("Closed: closed by the page").first).to_be_visible()
    site.allowed = ("error: watch(): this connection is closed",)
    page.evaluate("() => { add() }")  # reported, and no rejection
    page.wait_for_function("() => errors.length === 1")
    assert page.evaluate("errors[0]").startswith(
        "Uncaught Error: watch(): this connection is closed"
    )


def test_a_new_history_replaces_the_old_one_and_the_parts_say_so(site: Site) -> None:
    site.publish(1, 2)
    page = site.open_own(own(PARTS))
    shows_rows(page, "2", "1")
    site.restart("two")
    site.publish(7)
    shows_rows(page, "7")
    expect(figure(page)).to_have_text("7")
    expect(page.locator("#graph .graph")).to_have_attribute("data-points", "1")
    expect(page.locator("#list .note")).to_contain_text("new history")


CROWDED = """<style>
  html { font-size: 62.5% }
  body { font: 16px/3 serif; text-align: right; text-transform: uppercase; letter-spacing: 3px }
  * { box-sizing: content-box; margin: 7px; padding: 9px; border: 3px solid red }
  div, span, p, ol, li, button, time { display: inline-block; position: absolute; float: left;
    background: yellow; color: red; width: 50px; height: 1px; overflow: visible }
  canvas { display: none !important } [hidden] { display: block !important }
  .row-item, .legend, .root, .part, .list, .nothing, .newest { display: none !important }
  .uplot { width: 1px } .u-over { display: none }
</style>"""


def test_no_style_of_the_page_reaches_the_parts(site: Site) -> None:
    site.publish({"temp": 20, "hum": 40}, {"temp": 21, "hum": 41})
    host = "<style>#graph, #list, #number { all: initial; display: block; width: 600px }</style>"
    plain = site.open_own(own(PARTS, head=host), "/plain")
    crowded = site.open_own(own(PARTS, head=CROWDED + host), "/crowded")
    look = """() => [...document.querySelectorAll("#graph, #list, #number")].map((element) => {
      const { shadowRoot } = element.firstElementChild;
      return [...shadowRoot.querySelectorAll(".root *:not(dialog *)")].map((one) => {
        const { display, position, color, letterSpacing, fontSize } = getComputedStyle(one);
        const { width, height } = one.getBoundingClientRect();
        return [one.className, display, position, color, letterSpacing, fontSize, width, height];
      });
    })"""
    for page in (plain, crowded):
        expect(page.locator("#graph canvas")).to_be_visible()
        expect(figure(page)).to_have_text("21")
        page.mouse.move(0, 0)
    found = [page.evaluate(look) for page in (plain, crowded)]
    assert len(found[0][1]) > 20
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("colour", "scheme"),
    [
        ("#222", "light"),
        ("#ddd", "dark"),
        ("oklch(0.9 0.1 100)", "dark"),
        ("color(display-p3 0.1 0.1 0.1)", "light"),
        ("lab(80 0 0)", "dark"),
    ],
)
def test_the_colours_are_for_the_text_colour_of_the_page(
    site: Site, colour: str, scheme: str
) -> None:
    page = site.open_own(own(PARTS, head=f"<style>body {{ color: {colour} }}</style>"))
    expect(page.locator("#graph .root")).to_have_attribute("data-bs-theme", scheme)


def test_a_page_that_becomes_dark_gets_the_colours_for_it(site: Site) -> None:
    site.publish(1, 2)
    page = site.open_own(own(PARTS))
    swatch = page.locator(".legend-swatch")
    expect(swatch).to_have_css("border-top-color", "rgb(29, 95, 209)")
    page.evaluate("document.body.style.color = 'white'")
    expect(swatch).to_have_css("border-top-color", "rgb(110, 168, 254)")


def test_a_page_can_name_the_colours_of_the_lines(site: Site) -> None:
    site.publish(1, 2)
    head = "<style>body { --pushserver-line-1: rebeccapurple }</style>"
    page = site.open_own(own(PARTS, head=head))
    expect(page.locator(".legend-swatch")).to_have_css("border-top-color", "rgb(102, 51, 153)")
    expect(page.locator("#graph canvas")).to_be_visible()


def test_a_part_ends_when_its_element_leaves_the_page(site: Site) -> None:
    site.publish(1)
    page = site.open_own(own(PARTS))
    expect(figure(page)).to_have_text("1")
    page.evaluate("document.body.append(document.querySelector('#number'))")
    page.evaluate("for (const id of ['graph', 'list']) document.getElementById(id).remove()")
    site.publish(2)
    expect(figure(page)).to_have_text("2")
    assert site.subscribers == 1
    page.evaluate("document.querySelector('#number').replaceChildren()")
    page.wait_for_function("() => !document.querySelector('pushserver-part')")
    site.wait_for(page, lambda: site.connections == 0)


def test_a_stopped_part_is_gone_and_can_be_stopped_again(site: Site) -> None:
    site.publish(1)
    page = site.open_own(one("number('numbers')"))
    expect(figure(page)).to_have_text("1")
    page.evaluate("[part.stop(), part.stop()]")
    expect(page.locator("#part")).to_be_empty()
    site.wait_for(page, lambda: site.subscribers == 0)


def test_a_part_stopped_before_it_has_loaded_never_watches(site: Site) -> None:
    page = site.open_own(one("number('numbers'); part.stop()"))
    page.wait_for_load_state("networkidle")
    expect(page.locator("#part")).to_be_empty()
    assert [command for command in site.commands if "subscribe" in command] == []


def test_another_part_in_the_same_element_takes_its_place(site: Site) -> None:
    site.publish(1)
    script = 'import { list, number } from "/static/pushserver.js"; Object.assign(window, '
    body = '<output id="part">before</output>'
    page = site.open_own(own(script + '{ list }); number("#part", "numbers");', body))
    expect(figure(page)).to_have_text("1")
    page.evaluate("list(document.querySelector('#part'), 'numbers')")
    shows_rows(page, "1")
    expect(figure(page)).to_have_count(0)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("graph('#none', 'a')", 'graph(): no element matches "#none"'),
        ("list('##', 'a')", 'list(): "##" is not a selector'),
        ("number(null, 'a')", "number(): the element is null, expected an element or a selector"),
        ("number([], 'a')", "number(): the element is an array, expected an element or a selector"),
        ("graph('body', 'a b')", 'graph(): the channel is "a b", expected a name of 1 to 128'),
        ("graph('body')", "graph(): the channel is undefined, expected a name"),
        ("graph('body', 'a', 5)", "graph(): the options are 5, expected an object"),
        ("list('body', 'a', {lats: 5})", 'list(): no option "lats"; there are event, format, '),
        ("number('body', 'a', {last: 5})", 'number(): no option "last"; there are event, '),
        ("graph('body', 'a', {last: 9999})", "graph(): last is 9999, expected a whole number "),
        ("graph('body', 'a', {last: '5'})", 'graph(): last is "5", expected a whole number'),
        ("list('body', 'a', {value: 5})", "list(): value is 5, expected a path such as"),
        ("list('body', 'a', {value: ['a', 5]})", "list(): value is an array, expected a path"),
        ("number('body', 'a', {unit: 5})", "number(): unit is 5, expected a text"),
        ("number('body', 'a', {format: '%d'})", 'number(): format is "%d", expected a function'),
        (
            "number('body', 'a', {format: {style: 'no'}})",
            "number(): format is an object, expected options of Intl.NumberFormat: Value no out",
        ),
        ("list('body', 'a', {server: {}})", "list(): server is an object, expected the result of"),
    ],
)
def test_a_wrong_argument_is_named(site: Site, call: str, problem: str) -> None:
    script = f"""
      import {{ graph, list, number }} from "/static/pushserver.js";
      try {{ {call} }} catch (error) {{ window.problem = `${{error.name}}: ${{error.message}}` }}
    """
    page = site.open_own(own(script))
    assert page.evaluate("window.problem").startswith(f"TypeError: {problem}")


@pytest.mark.parametrize("option", ["value", "format"])
def test_an_error_of_a_function_of_the_page_costs_only_its_own_number(
    site: Site, option: str
) -> None:
    site.allowed = ("error: three",)
    site.publish(1, 2)
    function = "(n) => { if (n === 3) throw Error('three'); return n * 2 }"
    page = site.open_own(one(f"number('numbers', {{ {option}: {function} }})"))
    expect(figure(page)).to_have_text("4")
    site.publish(3)
    expect(figure(page)).to_have_text({"value": "4", "format": "3"}[option])
    site.publish(4)
    expect(figure(page)).to_have_text("8")


def test_a_thousand_events_a_second_are_drawn_at_most_twenty_times(site: Site) -> None:
    site.hold_time()
    page = site.open_own(own("", ""))
    drawn = """async () => {
      const { Drawing } = await import("/static/js/drawing.js");
      window.drawn = 0;
      const drawing = new Drawing(() => (window.drawn += 1));
      const timer = setInterval(() => drawing.schedule(), 1);
      setTimeout(() => clearInterval(timer), 1000);
    }"""
    page.evaluate(drawn)
    page.clock.run_for(1100)
    assert 10 < page.evaluate("window.drawn") <= 21


RECORD_ANNOUNCEMENTS = """
  window.announced = [];
  const attachShadow = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (options) {
    const root = attachShadow.call(this, options);
    const note = () => {
      const region = root.querySelector("[role=status]");
      if (region) announced.push(region.textContent);
    };
    new MutationObserver(note).observe(root, { childList: true, subtree: true });
    return root;
  };
"""


def test_screen_readers_get_names_texts_and_announcements(site: Site) -> None:
    site.run_first(RECORD_ANNOUNCEMENTS)
    site.publish({"temp": 21.5})
    page = site.open_own(one("graph('numbers', {label: 'The cellar'})"))
    expect(page.get_by_role("group", name="The cellar")).to_be_visible()
    graph = page.get_by_role("img", name="Line graph, 1 points: temp now 21.5")
    expect(graph).to_be_visible()
    button = page.get_by_role("button", name="temp")
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    # That of the connection takes its place after a second.
    page.wait_for_function("() => announced.includes('The cellar: temp 21.5')")
    site.down = True
    site.close(3001, "shutdown")
    expect(page.get_by_role("status")).to_contain_text("Reconnecting")


@pytest.mark.parametrize("colours", ["#fff; color: #222", "#111; color: #ddd"])
def test_a_tool_for_accessibility_finds_no_fault(site: Site, colours: str) -> None:
    site.publish({"temp": 20.5, "text": "long " * 50}, {"temp": 21})
    head = f'<html lang="en"><style>body {{ background: {colours} }}</style>'
    page = site.open_own(own(PARTS, f"<main><h1>Parts</h1>{ELEMENTS}</main>", head))
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator(".row-more:visible")).to_have_count(1)
    page.evaluate(AXE.read_text("utf-8"))
    for _ in range(2):
        found = page.evaluate("axe.run()")
        assert [describe(violation) for violation in found["violations"]] == []
        site.down = True
        site.close(3001, "shutdown")
        expect(page.locator(".figure")).to_have_class(re.compile("stale"))


@pytest.mark.parametrize("display", ["block", "flex", "inline-block; width: 100%"])
def test_a_graph_has_the_size_of_its_element(site: Site, display: str) -> None:
    site.publish(1, 2)
    head = f"<style>#graph {{ height: 150px; display: {display} }}</style>"
    page = site.open_own(own(PARTS, head=head))
    canvas = page.locator("#graph canvas")
    expect(canvas).to_be_visible()
    inside = """() => {
      const element = document.querySelector("#graph");
      const { shadowRoot } = element.firstElementChild;
      const { bottom } = shadowRoot.querySelector("canvas").getBoundingClientRect();
      return bottom - element.getBoundingClientRect().top;
    }"""
    assert 100 < page.evaluate(inside) <= 150
    box = canvas.bounding_box()
    assert box is not None
    assert box["width"] > 1000
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function(
        """() => {
          const { shadowRoot } = document.querySelector("#graph").firstElementChild;
          return shadowRoot.querySelector("canvas").getBoundingClientRect().width < 390;
        }"""
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_parts_need_nothing_from_other_places_and_no_inline_style(site: Site) -> None:
    site.headers = {"Content-Security-Policy": CSP}
    site.pages["/own.js"] = PARTS
    site.publish(1, 2)
    page = site.open_own(
        f'<!doctype html><body>{ELEMENTS}<script type="module" src="own.js"></script>'
    )
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(figure(page)).to_have_text("2")
    expect(page.locator("#list .newest")).to_have_css("display", "flex")


def test_a_uplot_of_the_page_stays_its_own(site: Site) -> None:
    site.publish(1, 2)
    head = "<script>window.uPlot = 'of the page'</script>"
    page = site.open_own(own(PARTS, head=head))
    expect(page.locator("#graph canvas")).to_be_visible()
    assert page.evaluate("window.uPlot") == "of the page"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("uPlot.iife.min.js", "No graph: uPlot did not load."),
        ("views.js", "The graph did not load. Reload the page."),
    ],
)
def test_a_file_that_does_not_load_is_said(site: Site, missing: str, words: str) -> None:
    site.missing = (missing,)
    site.allowed = ("error: Failed to load resource", "error: Failed to fetch dynamically")
    page = site.open_own(one("graph('numbers')"))
    expect(page.locator("#part").get_by_text(words)).to_be_visible()


def test_parts_use_the_connection_that_the_page_gives_them(site: Site) -> None:
    site.publish(1)
    script = """
      import { connect, number } from "/static/pushserver.js";
      const server = connect({ data: "mine" });
      number("#number", "numbers", { server });
    """
    page = site.open_own(own(script))
    expect(figure(page)).to_have_text("1")
    [connect] = [command["connect"] for command in site.commands if "connect" in command]
    assert connect["data"] == "mine"
