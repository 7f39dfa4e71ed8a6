"""Near copies and contamination: against brute force on real rows, in chains, and on tables as people have them."""

import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import pytest

import llmops_nb as ops
from llmops_nb import near_copies
from llmops_nb.errors import InputError, NotFound

WORDS = [f"word{n}" for n in range(400)]


def table(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"d{n}" for n in range(len(texts))], "text": texts})


def changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = f"other{place}"
    return " ".join(words)


def test_real_answers_against_comparing_each_with_each(shared: Path) -> None:
    rows = pd.read_csv(shared / "support" / "bitext_train.csv").response.head(700).tolist()
    sets = [set(zip(*(near_copies.plain(text).split()[n:] for n in range(5)), strict=False)) for text in rows]
    exact = {}
    for j in range(len(rows)):
        for i in range(j):
            if common := len(sets[i] & sets[j]):
                exact[i, j] = common / (len(sets[i]) + len(sets[j]) - common)
    for similarity in (0.5, 0.8):
        wanted = {pair: value for pair, value in exact.items() if value >= similarity}
        found = {(pair.first, pair.second): pair.similarity for pair in near_copies.pairs(rows, similarity)}
        assert set(found) <= set(wanted) and all(wanted[pair] == value for pair, value in found.items())
        assert len(found) >= 0.98 * len(wanted) > 0


def exactly(texts: list[str], least: float) -> dict[tuple[int, int], float]:
    """All pairs of that Jaccard similarity and more, of runs of five words, in plain Python: by way of the texts that hold a run."""
    holders, sizes, found = defaultdict[tuple, list[int]](list), list[int](), dict[tuple[int, int], float]()
    for place, text in enumerate(texts):
        words = near_copies.plain(text).split()
        runs = {tuple(words[n : n + 5]) for n in range(max(1, len(words) - 4))} if words else set()
        common = Counter(other for run in runs for other in holders[run])
        for other, count in common.items():
            if (value := count / (sizes[other] + len(runs) - count)) >= least:
                found[other, place] = value
        for run in runs:
            holders[run].append(place)
        sizes.append(len(runs))
    return found


@pytest.fixture(scope="module")
def books() -> dict[str, str]:
    folder = Path(__file__).parents[2] / "shared" / "data" / "pretrain" / "books"
    if not (found := {path.stem: path.read_text() for path in sorted(folder.glob("*.md"))}):
        pytest.skip("the books are not in the shared data folder beside this checkout")
    return found


def paragraphs(books: dict[str, str]) -> list[str]:
    return [text.strip() for book in books.values() for text in re.split(r"\n\s*\n", book) if text.strip()]


def measured(texts: list[str], similarity: float, least_pairs: int) -> None:
    """Recall .98, precision .99, and every similarity right."""
    wanted = exactly(texts, similarity)
    found = {(pair.first, pair.second): pair.similarity for pair in near_copies.pairs(texts, similarity)}
    both = wanted.keys() & found.keys()
    print(f"{len(texts):,} texts, similarity {similarity}: {len(wanted):,} pairs, recall {len(both) / max(1, len(wanted)):.4f}, "
          f"precision {len(both) / max(1, len(found)):.4f}")  # fmt: skip
    assert len(wanted) >= least_pairs and len(both) >= 0.98 * len(wanted) and len(both) >= 0.99 * len(found)
    assert all(wanted[pair] == found[pair] for pair in both)


@pytest.mark.parametrize(("similarity", "least_pairs"), [(0.8, 1), (0.5, 5), (0.3, 15)])  # novelists repeat themselves little
def test_paragraphs_of_books_against_comparing_each_with_each(books: dict[str, str], similarity: float, least_pairs: int) -> None:
    measured(list({near_copies.plain(text): text for text in paragraphs(books)}.values()), similarity, least_pairs)


@pytest.mark.parametrize(("similarity", "least_pairs"), [(0.8, 2_000), (0.5, 20_000)])
def test_pages_of_books_that_overlap_against_comparing_each_with_each(books: dict[str, str], similarity: float, least_pairs: int) -> None:
    draw, pages = random.Random(0), list[str]()
    for name in ("A_Christmas_Carol", "The_Invisible_Man", "The_Time_Machine"):
        words, start = books[name].split(), 0
        while start < len(words):
            pages.append(" ".join(words[start : start + draw.randint(100, 300)]))
            start += draw.randint(5, 25)
    measured(pages, similarity, least_pairs)


@pytest.mark.parametrize("keep", ops.data.KEEP)
def test_of_the_books_paragraphs_no_near_copy_stays(books: dict[str, str], keep: str) -> None:
    """Of a large group of equal texts not every pair is reported; what counts is that one of it stays."""
    docs = table(*paragraphs(books))
    kept = ops.data.dedup(docs, near=0.5, keep=keep)
    print(f"{len(docs):,} paragraphs, {len(docs) - len(kept)} dropped, {len(exactly(kept.text.tolist(), 0.5))} pairs left")
    assert len(docs) - len(kept) > 200 and exactly(kept.text.tolist(), 0.5) == {}


def test_whoever_goes_names_one_who_stays() -> None:
    base = " ".join(WORDS[:120])
    steps = [(), (5, 6, 7, 8), (60, 61, 62, 63), (100, 101, 102, 103)]
    docs = table(*(changed(base, *sum(steps[: n + 1], ())) for n in range(4)))  # each is near the one before alone
    kept = ops.data.dedup(docs, near=0.8)
    assert kept.id.tolist() == ["d0", "d2"]  # d2 is near d1, which goes, but not near d0
    notes = ops.data.lineage(kept)
    assert [(row.id, row.reason.split()[-1]) for row in notes.itertuples()] == [("d1", "d0."), ("d3", "d2.")]


def test_the_longest_stays_when_asked_and_the_order_remains() -> None:
    base = " ".join(WORDS[:100])
    docs = table(base, "something else altogether", base + " and a little more at the end")
    assert ops.data.dedup(docs, near=0.8).id.tolist() == ["d0", "d1"]
    assert ops.data.dedup(docs, near=0.8, keep="longest").id.tolist() == ["d1", "d2"]


def test_a_function_says_which_stays_among_equal_and_near_texts() -> None:
    base = " ".join(WORDS[:60])
    docs = table(base, base.upper(), changed(base, 3), "something else entirely").assign(year=[2024, 2026, 2025, 2020])
    newest = ops.data.dedup(docs, near=0.8, keep=lambda row: row["year"])
    assert newest.id.tolist() == ["d1", "d3"]
    assert ops.data.dedup(docs, keep=lambda row: row["year"]).id.tolist() == ["d1", "d2", "d3"]
    seen = ops.data.copies(docs, keep=lambda row: row["year"]).df
    assert seen[seen.stays].id.tolist() == ["d1"] and set(seen.id) == {"d0", "d1", "d2"}
    said = "Said before, in a paragraph of nine words or more."
    parts = table(f"{said}\n\nNew.", said).assign(year=[2024, 2026])
    assert ops.data.dedup(parts, level="paragraph", keep=lambda row: row["year"]).text.tolist() == ["New.", parts.text[1]]


def test_workers_find_the_same(shared: Path) -> None:
    docs = pd.read_csv(shared / "support" / "bitext_train.csv").rename(columns={"response": "text"}).reset_index(names="id")
    here, there = ops.data.dedup(docs, near=0.5), ops.data.dedup(docs, near=0.5, engine="processes")
    assert here.equals(there) and ops.data.lineage(here).equals(ops.data.lineage(there)) and len(here) < len(docs)
    with pytest.raises(InputError, match="no such engine"):
        ops.data.dedup(docs, near=0.5, engine="spark")


def test_without_near_only_equal_texts_go() -> None:
    base = " ".join(WORDS[:100])
    assert ops.data.dedup(table(base, base.upper(), changed(base, 3))).id.tolist() == ["d0", "d2"]


def test_equal_texts_name_one_who_stays_even_when_the_first_of_them_goes() -> None:
    base = " ".join(WORDS[:100])
    docs = table(base, base.upper(), base + " and a little more at the end")
    kept = ops.data.dedup(docs, near=0.8, keep="longest")
    assert kept.id.tolist() == ["d2"]
    assert [row.reason.split()[-1] for row in ops.data.lineage(kept).itertuples()] == ["d2.", "d2."]


def test_paragraphs_are_kept_where_they_stand_first() -> None:
    one, two = " ".join(WORDS[:60]), " ".join(WORDS[100:160])
    docs = table(f"Head\n\n{one}\n\n{two}", f"Head\n\n{changed(one, 3)}\n\nnew words", f"{two}\n \n{two}")
    kept = ops.data.dedup(docs, near=0.8, level="paragraph")
    assert kept.text.tolist() == [docs.text[0], "Head\n\nnew words"]
    notes = ops.data.lineage(kept)
    assert notes.action.tolist() == ["changed", "dropped"] and notes.reason[1] == "Of its paragraphs, 2 also in d0."
    assert ops.data.dedup(docs, level="paragraph").text.tolist() == [docs.text[0], docs.text[1]]


@pytest.mark.parametrize("wrong", [{"near": 80}, {"near": 0.1}, {"near": 0.8, "keep": "best"}, {"level": "line"}])
def test_what_cannot_be_looked_for_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="allowed"):
        ops.data.dedup(table("one", "two"), **wrong)


def test_a_text_of_many_megabytes_and_words_without_end() -> None:
    long = " ".join(WORDS) * 3000
    found = near_copies.pairs(["x" * 5_000_000, long, long + " end", "x" * 5_000_000])
    assert [(pair.first, pair.second) for pair in found] == [(0, 3), (1, 2)]


def test_tests_in_training_data_are_found_by_name(ws) -> None:
    passage = "The warranty covers parts and labour for two years from the day of purchase"
    questions = [{"id": "q1", "input": "How long is the warranty?", "expected": passage}, {"id": "q2", "input": "Who?", "expected": "Ada"}]
    ops.evals.save_dataset("exam", questions)
    found = ops.data.contamination(table("Nothing to see.", f"Note: {passage.upper()}, and no longer."), "exam")
    assert found[["id", "test"]].values.tolist() == [["d1", "q1"]] and 0 < found.share[0] < 1
    assert found.passage[0] == "the warranty covers parts and labour for two years from the day of"
    assert ops.data.contamination(table("Nothing to see."), "exam").empty
    with pytest.raises(NotFound):
        ops.data.contamination(table("Nothing to see."), "examen")
    with pytest.raises(InputError, match="no evaluation set"):
        ops.data.contamination(table("Nothing to see."), pd.DataFrame({"question": ["?"]}))
