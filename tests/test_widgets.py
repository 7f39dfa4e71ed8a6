"""Static views: hostile text is shown and does nothing; real Chromium draws them in light and dark, narrow and wide."""

import random
from html.parser import HTMLParser

import pandas as pd
import pytest

from llmops_nb.widgets import compare, evals
from llmops_nb.widgets.text import KEPT, folded, inert

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=http://127.0.0.1:9/x.png onerror=alert(1)>",
    "![x](http://127.0.0.1:9/y.png)",
    "</div></table><h1>out</h1>",
    "\x1b[31mred\x1b[0m \x07\x00\x9b",
    "\u202egnp.exe\u2066",
    "x" * 1_000_000,
    "\ud800 lone",
    "$$\\href{javascript:alert(1)}{x}$$",
    "&lt;b&gt;",
    "' onload='x",
    "",
    "<style>*{display:none}</style>",
    "\U000e0041hidden",
    "<details open ontoggle=alert(1)>",
]
ALLOWED = {
    "style",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "b",
    "i",
    "br",
    "wbr",
    "span",
    "bdi",
    "details",
    "summary",
    "ins",
    "del",
    "code",
    "svg",
    "path",
    "circle",
}


@pytest.fixture(autouse=True)
def text_as_it_comes():
    """Frames that hold any text: with pyarrow installed, pandas would refuse half a surrogate pair before a view sees it."""
    with pd.option_context("future.infer_string", False):
        yield


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes, self.open = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "wbr", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def grid_of(texts):
    rows = [
        {
            "id": f"{n}{text[:20]}",
            "prompt": prompt,
            "model": model,
            "question": text,
            "output": text + extra,
            "latency_s": 0.1,
            "input_tokens": 1,
            "output_tokens": None,
            "cost": None,
            "error": text if n == 3 else None,
            "trace_id": text[:8],
        }
        for n, text in enumerate(texts)
        for prompt, extra in (("a@1", ""), ("b@1", " more"))
        for model in ("m:1", texts[0])
    ]
    return pd.DataFrame(rows)


def run_of(texts):
    results = pd.DataFrame(
        [
            {
                "id": f"{n}{text[:20]}",
                "input": text,
                "expected": [text],
                "output": text,
                "error": text if n == 2 else None,
                "latency_s": 0.2,
                "input_tokens": 5,
                "output_tokens": 6,
                "cost": 0.1,
                "trace_id": text[:30],
            }
            for n, text in enumerate(texts)
        ]
    )
    scores = pd.DataFrame(
        [
            {
                "id": id,
                "scorer": texts[0],
                "value": None if n % 3 else n / len(texts),
                "state": ("scored", "failed", "not_applicable")[n % 3],
                "explanation": text,
            }
            for n, (id, text) in enumerate(zip(results.id, texts, strict=True))
        ]
    )
    summary = pd.DataFrame(
        [
            {
                "scorer": texts[0],
                "mean": 0.5,
                "half_width": None,
                "low": None,
                "high": None,
                "scored": 1,
                "failed": 1,
                "not_applicable": 0,
                "better": "higher",
            }
        ]
    )
    return results, scores, summary


def paired_of(texts):
    differences = pd.DataFrame(
        [
            {
                "scorer": texts[0],
                "a": 0.5,
                "b": 0.6,
                "difference": 0.1,
                "low": -0.1,
                "high": 0.3,
                "n": 3,
                "changed": 2,
                "verdict": "tied",
                "better": "higher",
            }
        ]
    )
    flips = pd.DataFrame(
        [
            {
                "id": f"{n}{text[:9]}",
                "scorer": texts[0],
                "a": 0.0,
                "b": 1.0,
                "gain": 1.0,
                "input": text,
                "expected": text,
                "output_a": text,
                "output_b": text + "!",
            }
            for n, text in enumerate(texts)
        ]
    )
    return evals.paired(differences, flips, (texts[0], texts[1]), (1, 2))


VIEWS = {
    "grid": lambda texts: compare.grid(grid_of(texts)),
    "run": lambda texts: evals.run(*run_of(texts), title=texts[0]),
    "paired": paired_of,
    "difference": lambda texts: compare.difference("\n".join(texts[:6]), "\n".join(texts[6:]), texts[0]),
    "template": lambda texts: compare.template(texts[0], {texts[1]: texts[2]}, [(texts[0], texts[3])], texts[1]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_text_is_inert(view):
    page = VIEWS[view](HOSTILE)
    tags = Tags()
    tags.feed(page)
    assert tags.seen <= ALLOWED and not tags.open
    assert not {name for name in tags.attributes if name.startswith("on")} and not tags.attributes & {
        "src",
        "href",
        "srcset",
        "action",
        "data",
    }
    page.encode("utf-8")
    assert not set(page) & {"\x1b", "\x00", "\u202e", "\u2066", "\U000e0041"}
    assert len(page) < 600_000, "a megabyte in a cell is cut, not kept"


def test_long_text_is_folded_and_says_what_is_left_out():
    assert "<details" not in folded("short") and "<details" in folded("word " * 200)
    assert f"{1_000_000 - KEPT:,} more characters" in folded("x" * 1_000_000)
    assert inert(None) == "None" and folded(None) == '<bdi class="ops-text"></bdi>'


def test_word_diff_gives_both_texts_back():
    draw = random.Random(5)
    for _ in range(50):
        old, new = (" ".join(draw.choices(["a", "b,", "c.", "<d>", "é\n"], k=draw.randint(0, 12))) for _ in range(2))
        pieces = compare.word_diff(old, new)
        assert "".join(text for kind, text in pieces if kind != "gone") == new
        assert "".join("".join(text for kind, text in pieces if kind != "new").split()) == "".join(old.split())


def test_empty_tables_say_so():
    assert "Nothing was compared" in compare.grid(grid_of(["x"] * 2).head(0))
    results, scores, summary = run_of(["x"] * 2)
    assert "2 examples" in evals.run(results, scores.head(0), summary)


def test_six_hundred_answers_stay_small():
    words = "the answer quotes the manual where it says what the statement does ".split()
    rows = [
        {
            "id": n,
            "prompt": f"p@{p}",
            "model": f"m:{m}",
            "question": f"question {n}?",
            "output": " ".join(random.Random(n + p).choices(words, k=60)),
            "latency_s": 0.5,
            "input_tokens": 100,
            "output_tokens": 50,
            "cost": 0.001,
            "error": None,
            "trace_id": None,
        }
        for n in range(50)
        for p in range(4)
        for m in range(3)
    ]
    assert len(compare.grid(pd.DataFrame(rows)).encode()) < 1_000_000


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    from shutil import which

    path = which("chromium") or which("chromium-browser") or which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_runs_and_nothing_is_fetched(browser, view):
    page = browser.new_page(viewport={"width": 700, "height": 900})
    requests, surprises = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: (surprises.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: surprises.append(str(error)))
    page.set_content(f"<!doctype html><meta charset=utf-8>{VIEWS[view](HOSTILE)}")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(100)
    assert requests == [] and surprises == [] and page.locator("h1, img, script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 700, "a long word wraps or scrolls inside its view"
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser, scheme):
    page = browser.new_page(color_scheme=scheme)
    results, scores, summary = run_of(["scorer", "good answer", "failed", "other"])
    page.set_content(evals.run(results, scores, summary))
    ratios = page.evaluate("""() => {
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => linear(v / 255));
                           return .2126 * r + .7152 * g + .0722 * b };
        const back = lum(getComputedStyle(document.querySelector('.ops-view')).backgroundColor);
        return [...document.querySelectorAll('.ops-view :is(b, span, td, th, p, bdi, code)')].filter(e => e.textContent.trim()).map(e => {
            const front = lum(getComputedStyle(e).color); return (Math.max(front, back) + .05) / (Math.min(front, back) + .05) }) }""")
    assert min(ratios) >= 4.5
    page.close()
