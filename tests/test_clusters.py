"""Copies looked at before they are dropped: the same choice as `dedup`, hostile texts, size, and what a reader can do without a mouse."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_near_copies import WORDS, changed, table
from test_widgets import ALLOWED, HOSTILE, Tags

import llmops_nb as ops
from llmops_nb.errors import InputError
from llmops_nb.widgets.clusters import ADDED, COPIES, MOST, Copies, clusters, places, shortened

BASE = " ".join(WORDS[:100])
COLUMNS = ["cluster", "id", "stays", "similarity", "text"]


def drawn(found: Copies) -> str:
    page = found._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert tags.seen <= ALLOWED and not tags.open
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert not tags.attributes & {"src", "href", "srcset", "action", "data"}
    return page


def agrees(docs: pd.DataFrame, near: float | None, keep: str) -> Copies:
    """What is shown is what goes, each for the text that the account names."""
    found, kept = ops.data.copies(docs, near=near, keep=keep), ops.data.dedup(docs, near=near, keep=keep)
    going = found.df[~found.df.stays]
    assert sorted(going.id) == sorted(set(docs.id) - set(kept.id)) and len(found.df) == len(set(found.df.id))
    stays = found.df[found.df.stays].set_index("cluster").id
    assert set(stays) <= set(kept.id) and len(stays) == found.df.cluster.nunique()
    reasons = dict(ops.data.lineage(kept)[["id", "reason"]].itertuples(index=False, name=None))
    assert reasons == {row.id: ops.data._likeness(row.similarity, stays[row.cluster]) for row in going.itertuples()}
    sizes = found.df.groupby("cluster").size().tolist()
    assert sizes == sorted(sizes, reverse=True) and found.df.cluster.is_monotonic_increasing
    assert found.df.groupby("cluster").stays.first().all() and found.df.groupby("cluster").stays.sum().eq(1).all()
    assert all(rows.similarity.iloc[1:].is_monotonic_increasing for _, rows in found.df.groupby("cluster"))
    return found


@pytest.mark.parametrize("keep", ops.data.KEEP)
@pytest.mark.parametrize("near", [None, 0.5, 0.8, 1.0])
def test_what_is_shown_is_what_goes(keep: str, near: float | None) -> None:
    steps = [(), (5, 6, 7, 8), (60, 61, 62, 63), (90, 91, 92)]
    chain = [changed(BASE, *sum(steps[: n + 1], ())) for n in range(4)]
    longer = [BASE + " and more at the end", BASE.upper(), BASE.replace(" ", "\n"), "quite another text", "Quite  another text"]
    assert len(agrees(table(*chain, *longer, *chain[1:]), near, keep).df) > 0


@pytest.mark.parametrize("keep", ops.data.KEEP)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=7).map(" ".join), max_size=12))
def test_any_texts_whatever_stays(keep: str, texts: list[str]) -> None:
    drawn(agrees(table(*texts), 0.4, keep))


@pytest.mark.parametrize("keep", ops.data.KEEP)
def test_real_paragraphs(shared: Path, keep: str) -> None:
    book = shared / "pretrain" / "books" / "The_Time_Machine.md"
    if not book.exists():
        pytest.skip("the books are not in the shared data folder")
    texts, words = [text for text in book.read_text().split("\n\n") if text.strip()], book.read_text().split()
    pages = [" ".join(words[start : start + 120]) for start in range(0, 12_000, 9)]
    found = agrees(table(*texts, *pages), 0.7, keep)
    assert found.df.similarity.min() < 0.8 and len(drawn(found).encode()) < 300_000


def test_tables_as_people_have_them() -> None:
    docs = pd.DataFrame({"text": ["one two three", "other", "ONE two three"], "id": [7, 8, 9], "score": [1.0, None, 2.0]},
                        index=pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)]))  # fmt: skip
    docs.attrs["lineage"] = ({"id": "x", "step": "load", "action": "dropped", "reason": "empty"},)
    before, notes = docs.copy(deep=True), docs.attrs["lineage"]
    found = ops.data.copies(docs)
    assert found.df.values.tolist() == [[0, 7, True, 1.0, "one two three"], [0, 9, False, 1.0, "ONE two three"]]
    assert found.df.index.tolist() == [0, 1] and found.df.id.dtype == docs.id.dtype and not found.df.attrs
    found.df.loc[0, "text"] = "changed"
    pd.testing.assert_frame_equal(docs, before)
    assert docs.attrs["lineage"] is notes
    dates = pd.DataFrame({"id": [1, 2], "text": ["a b", "A  B"]}, index=pd.date_range("2026-01-01", periods=2))
    assert ops.data.copies(dates).df.id.tolist() == [1, 2]


@pytest.mark.parametrize("docs", [table(), table("one"), table("one", "two"), table("", "word")])
def test_nothing_to_drop_is_said(docs: pd.DataFrame) -> None:
    found = ops.data.copies(docs)
    assert found.df.empty and list(found.df.columns) == COLUMNS and found.df.stays.dtype == bool
    assert f"There are no copies among {len(docs)} text" in drawn(found) and repr(found).startswith("no copies among")
    assert found.pages == 1 and found.page(0).below(1).df.empty and "<details" not in drawn(found.below(1))


@pytest.mark.parametrize("wrong", [{"near": 80}, {"near": 0.1}, {"keep": "best"}])
def test_what_cannot_be_looked_for_is_refused_as_by_dedup(wrong: dict) -> None:
    said = []
    for call in (ops.data.copies, ops.data.dedup):
        with pytest.raises(InputError, match="allowed") as caught:
            call(table("one", "two"), **wrong)
        said.append(str(caught.value))
    assert said[0] == said[1]
    with pytest.raises(InputError, match="table of documents"):
        ops.data.copies(iter([table("one")]))


def test_equal_texts_share_a_line_and_say_how_they_are_equal() -> None:
    page = drawn(ops.data.copies(table(*[BASE] * 9, BASE.replace(" ", "\n"), BASE.upper(), changed(BASE, 50)), near=0.5))
    assert page.count("ops-part ops-copy") == 4 and "the same text" in page and "and 4 more" in page
    assert "other spacing, the same text" in page and "<ins>WORD0 WORD1" in page
    assert "<ins>other50</ins>" in page and "<del>word50</del>" in page


def test_the_words_that_differ_are_shown_wherever_they_are() -> None:
    long = " ".join(WORDS * 40)
    for place in (0, 7_000, len(long.split()) - 1):
        pieces, whole = places(long, changed(long, place))
        differ = [(kind, text.strip()) for kind, text in pieces if kind != "same"]
        assert whole and differ == [("gone", WORDS[place % 400]), ("new", f"other{place}")]
        assert sum(len(text) for _, text in shortened(pieces)[0]) < 200
    kept, many, hidden = shortened(places(long, changed(long, 100, 110, 15_900))[0])
    assert (many, hidden) == (2, 0) and not places(long, changed(long, 100, 110, 15_900))[1]  # the third is said to follow
    assert places(long, long[:5_000] + "added " * 9_000 + long[5_000:])[0][1][0] == "new"


@given(st.text(st.sampled_from("ab <.\n"), max_size=60), st.text(st.sampled_from("ab <.\n"), max_size=60))
def test_pieces_give_the_ends_of_both_texts_back(one: str, two: str) -> None:
    pieces, whole = places(one, two)
    said = "".join(text for kind, text in pieces if kind != "gone")
    assert whole and said == " ".join(two.split())
    assert "".join("".join(text for kind, text in pieces if kind != "new").split()) == "".join(one.split())
    kept, many, hidden = shortened(pieces)
    assert 0 <= hidden <= many and sum(len(text) for _, text in kept) <= MOST + 2 * ADDED


def hostile() -> Copies:
    named = [(n, row, text) for n, text in enumerate(HOSTILE) for row in range(3)]
    texts = [f"{BASE} {text} {'x' * row} {text[:5_000]}" for _, row, text in named]
    rows = [(n, f"{n} {row} {name[:300]}", row == 0, 1 - row / 10, text) for (n, row, name), text in zip(named, texts, strict=True)]
    with pd.option_context("future.infer_string", False):
        return Copies(pd.DataFrame(rows, columns=COLUMNS), 99, f"dedup({HOSTILE[0]!r})")


def test_hostile_texts_are_texts() -> None:
    page = drawn(hostile())
    page.encode("utf-8")
    assert not set(page) & {"\x1b", "\x00", "\u202e", "\u2066", "\U000e0041"}
    assert "&lt;script&gt;" in page and "[RLO]" in page and "\\x1b" in page
    assert len(page.encode()) < 300_000
    with pd.option_context("future.infer_string", False):
        docs = pd.DataFrame({"id": [f"{n} {text[:40]}" for n, text in enumerate(HOSTILE * 2)], "text": HOSTILE * 2})
        assert len(drawn(ops.data.copies(docs, near=None))) > 10_000


BIG: dict[str, Callable[[int, int], str]] = {
    "prose": lambda number, row: f"{BASE} {BASE} cluster {number} row {row} {BASE}",
    "long": lambda number, row: changed(" ".join(WORDS * 3), *range(row, 1_200, 40)) + f" {number}",
    "escapes": lambda number, row: "<\x1b\u202e\"& " * 400 + f"{number} {row} " + "<b>\x9b\u2066 " * 400,
    "Chinese": lambda number, row: "机器学习模型的训练数据 " * 200 + f"{number} {row}",
    "one word": lambda number, row: "&" * 3_000 + f"{number}{row}" + "'" * 3_000,
    "emoji, every other word": lambda number, row: " ".join(f"{'😀' * 3}{n}" if n % 2 else f"<{row}>" for n in range(600)) + f" {number}",
}


@pytest.mark.parametrize("kind", BIG)
def test_ten_thousand_clusters_are_a_small_page(kind: str) -> None:
    copies = 30
    texts = {(number, row): BIG[kind](number, row) for number in range(60) for row in range(copies)}
    places = [(number, row) for number in range(10_000) for row in range(3 if number >= 60 else copies)]
    rows = [(number, f"d{number}/{row}", row == 0, 1 - row / 100, texts[number % 60, row]) for number, row in places]
    found = Copies(pd.DataFrame(rows, columns=COLUMNS), 10**6, "ops.data.dedup(docs, near=0.8)")
    began = time.process_time()
    page = drawn(found)
    took = time.process_time() - began
    print(kind, f"{len(page.encode()):,} bytes, {took:.1f} s with its check")
    assert took < 30, "comparing words takes more than quadratic time, and is kept from it"
    assert len(page.encode()) < 300_000 and page.count("<details class=\"ops-cluster") == 50 and "50 of 10,000 clusters" in page
    assert page.count("more copies of this text") == 50 and 50 <= page.count("ops-part ops-copy") <= 50 * COPIES
    last = drawn(found.page(199))
    assert "9,951 to 10,000 of 10,000" in last and "#9999<" in last and ".page(0)" in last and len(last.encode()) < 300_000
    for wrong in (-1, 200):
        with pytest.raises(InputError, match="0 to 199"):
            found.page(wrong)


def test_below_leaves_what_is_worth_a_look() -> None:
    two, three = " ".join(WORDS[200:300]), " ".join(WORDS[300:])
    docs = table(*[BASE] * 5, two, changed(two, 50), three, changed(three, 50, 70))
    found = ops.data.copies(docs, near=0.5)
    assert found.df.cluster.nunique() == 3 and ".below(1)" in drawn(found)
    near = found.below(1)
    assert near.df.cluster.unique().tolist() == [1, 2] and "2 copies in 2 clusters" in repr(near) and near.code == found.code
    assert ".below(1)" not in drawn(near)
    assert near.df.similarity.iloc[1] < near.df.similarity.iloc[3]  # of clusters with as many copies, the less similar first
    assert clusters(near) == near._repr_html_() and found.df.cluster.nunique() == 3


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    from lab import CHROMIUM, FLAGS

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 700, 1400])
def test_a_page_is_read_with_the_keyboard(browser, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    asked, surprises = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (surprises.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: surprises.append(str(error)))
    page.set_content(f"<!doctype html><meta charset=utf-8>{hostile()._repr_html_()}")
    from lab import screenshot

    screenshot(page, f"clusters-{scheme}-{width}")
    opened = "document.querySelectorAll('.ops-cluster[open]').length"
    before = page.evaluate(opened)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(opened) == before - 1 and page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "a long word wraps inside its view"
    assert asked == [] and surprises == [] and page.locator("h1, img, script").count() == 0
    ratios = page.evaluate("""() => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const shown = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                                  return canvas.getImageData(0, 0, 1, 1).data };
        const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const lum = c => { const [r, g, b] = shown(c);
                           return .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b) };
        const back = lum(getComputedStyle(document.querySelector('.ops-view')).backgroundColor);
        return [...document.querySelectorAll('.ops-view :is(b, span, p, bdi, code, ins, del)')].filter(e => e.textContent.trim()).map(e => {
            const front = lum(getComputedStyle(e).color); return (Math.max(front, back) + .05) / (Math.min(front, back) + .05) }) }""")
    assert min(ratios) >= 4.5
    page.close()


def test_the_table_is_numbers_and_words() -> None:
    found = ops.data.copies(table(BASE, changed(BASE, 50)))
    assert [str(found.df[name].dtype) for name in ("cluster", "stays", "similarity")] == ["int64", "bool", "float64"]
    assert found.df.similarity[1] == pytest.approx(91 / 101) and np.isclose(found.df.similarity[0], 1)
