"""The page as people use it: asked by keyboard, read while it is written, judged, on a phone and in the dark."""

import os
import re
import shutil
import threading
from collections.abc import Iterator

import pytest
from test_host import Pieces, Server

import llmops_nb as ops
from llmops_nb import host

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(ws, browser) -> Iterator:
    """Hosts an application and opens its page; afterwards nothing may have gone wrong or gone elsewhere."""
    opened: list = []

    def start(application, scheme: str = "light", width: int = 1200, **options):
        server = Server(application, **options)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        asked, problems = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        refused = "status of"  # Chromium reports every 4xx here; those are asked for
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" and refused not in said.text else None)
        page.goto(server.url)
        opened.append((server, page, asked, problems))
        return page

    yield start
    for server, page, asked, problems in opened:
        page.close()
        server.close()
        assert not problems and not [url for url in asked if not url.startswith((server.url, "data:"))]


def rag(**options):
    topics = ops.data.load("pydoc:topics")
    return ops.apps.RAG(ops.index.build(ops.data.chunk(topics), name="topics", embedder="lexical", store="local"), k=3, **options)


def scores() -> list[dict]:
    return ops.workspace.current().records.rows("SELECT value, explanation FROM scores")


def test_everything_works_with_the_keyboard_alone(visit) -> None:
    page = visit(rag(), examples=["What does yield do?"])
    page.keyboard.type("What happens to an exception in a with statement when __exit__ returns true?")  # the field has the focus
    page.keyboard.press("Enter")
    page.locator(".after:not([hidden])").wait_for()
    assert page.evaluate("document.activeElement.id") == "question" and page.locator("#question").input_value() == ""
    assert not page.locator("[aria-busy]").count()
    page.locator(".text a").first.focus()
    page.keyboard.press("Enter")  # a citation opens its source and goes there
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY" and page.locator(".sources li details[open] .passage").count() == 1
    page.locator(".no").focus()
    page.keyboard.press("Enter")
    page.locator(".noted", has_text="Thank you").wait_for()
    assert page.locator(".no").get_attribute("aria-pressed") == "true" and page.locator(".yes").get_attribute("aria-pressed") == "false"
    page.keyboard.press("Tab")  # copy
    page.keyboard.press("Tab")  # the comment
    page.keyboard.type("It does not say <when>.")
    page.keyboard.press("Enter")
    page.locator(".noted", has_text="comment").wait_for()
    assert scores() == [{"value": 0.0, "explanation": "It does not say <when>."}]


def test_the_answer_is_read_while_it_is_written_and_can_be_stopped(visit) -> None:
    application = Pieces("First words. ", "More words. ", "The end.")
    page = visit(application)
    page.keyboard.type("Tell me.")
    page.keyboard.press("Enter")
    page.locator(".waiting").wait_for()
    assert page.locator(".answer").get_attribute("aria-busy") == "true"
    for seen in ("First words. ", "First words. More words. "):
        application.gate.release()
        page.wait_for_function("seen => document.querySelector('.text').textContent === seen", arg=seen)
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    page.keyboard.press("Escape")
    page.locator(".refused", has_text="Stopped.").wait_for()
    assert page.locator(".text").text_content().startswith("First words.")  # what had come stays
    for _ in range(4):
        application.gate.release()
    page.get_by_role("button", name="Ask again").click()
    page.locator(".after:not([hidden])").wait_for()
    assert page.locator(".turn").count() == 1 and page.locator(".text").text_content() == "First words. More words. The end."


def test_what_people_and_models_write_is_text(visit) -> None:
    evil = "<img src=x onerror=alert(1)> [1](javascript:alert(1)) \u202etxt.exe\n```html\n<script>alert(2)</script>\n```\nafter"
    page = visit(lambda question: evil + question, examples=["<b>bold?</b>"])
    page.get_by_role("button", name="<b>bold?</b>").click()
    page.locator(".after:not([hidden])").wait_for()
    assert page.locator(".turn img, .turn script, .turn b, .turn a").count() == 0
    assert page.locator(".text pre").text_content() == "<script>alert(2)</script>" and "\u202e" not in page.locator(".text").text_content()
    assert page.locator(".asked").text_content() == "<b>bold?</b>"


def test_a_failure_says_what_to_do_and_a_wrong_key_asks_again(visit) -> None:
    fails = threading.Event()

    def sometimes(question: str) -> str:
        if not fails.is_set():
            raise ValueError("inside")
        return "Now it works."

    page = visit(sometimes, api_key="open sesame please")
    page.keyboard.type("Hello?")
    page.keyboard.press("Enter")
    page.locator("#access:not([hidden])").wait_for()
    page.keyboard.type("wrong")  # the key's field has the focus
    page.keyboard.press("Enter")
    page.locator(".refused", has_text="access key").wait_for()
    page.locator("#key").fill("open sesame please")
    page.keyboard.press("Enter")
    page.locator(".refused", has_text="The application failed").wait_for()
    assert re.search("trace [0-9a-f]{32}", page.locator(".refused small").text_content()) and "inside" not in page.content()
    fails.set()
    page.get_by_role("button", name="Ask again").click()
    page.get_by_text("Now it works.").wait_for()


def test_a_question_that_is_too_long_is_not_sent(visit) -> None:
    page = visit(lambda question: "yes", limits=host.Limits(question_chars=20))
    page.keyboard.type("x" * 25)
    assert page.locator("#hint").text_content() == "5 characters too long" and page.locator("#send").is_disabled()
    page.keyboard.press("Enter")
    assert page.locator(".turn").count() == 0 and page.locator("#question").input_value() == "x" * 25  # nothing typed is lost
    page.keyboard.press("Backspace")
    assert page.locator("#hint").text_content() == "4 characters too long"


CONTRAST = """() => {
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const colour = text => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(c)) return colour(c);
    }
    return [255, 255, 255];
  };
  const words = 'h1, #about, #hint, .asked, .text, .text a, .sources summary, .tools button, .noted, .comment label, .used, #send';
  const shown = [...document.querySelectorAll(words)].filter(e => e.getClientRects().length && e.textContent.trim());
  return shown.map(e => {
    const [a, b] = [light(colour(getComputedStyle(e).color)), light(behind(e))];
    return [e.className || e.id || e.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""
SMALL = """() => [...document.querySelectorAll('button')].filter(b => b.getClientRects().length)
  .filter(b => b.getBoundingClientRect().height < 24).length"""


@pytest.mark.parametrize("width", [320, 400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_and_in_the_dark(visit, scheme, width) -> None:
    about = "Answers from the language reference, with the passages they rest on."
    examples = ["When are assert statements not executed?", "In what order are targets deleted by del?"]
    page = visit(rag(), scheme, width, title="Python help desk", description=about, examples=examples)
    folder = os.environ.get("LLMOPS_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/host-start-{scheme}-{width}.png")
    page.keyboard.type("What happens to an exception in a with statement when __exit__ returns true?")
    page.keyboard.press("Enter")
    page.locator(".after:not([hidden])").wait_for()
    page.locator(".sources > summary").click()
    page.locator(".yes").click()
    page.locator(".noted", has_text="Thank you").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(SMALL) == 0  # WCAG 2.2: targets of 24 px
    if folder:
        page.screenshot(path=f"{folder}/host-answer-{scheme}-{width}.png")
