"The help desk's questions hold against the documentation of the Python that runs this."
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from llmops_nb import chunking, data

HELPDESK = Path(__file__).parent.parent / "nbs" / "helpdesk.jsonl"
ROWS = [json.loads(line) for line in HELPDESK.read_text("utf-8").splitlines()]
ANSWERABLE = [row for row in ROWS if row["kind"] != "unanswerable"]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {item.id: item.text for item in data.stream(["pydoc:topics", "pydoc:stdlib"])}


def plain(text: str) -> str:
    return " ".join(text.split())


def test_there_are_enough_questions_and_they_spread():
    kinds = Counter(row["kind"] for row in ROWS)
    assert kinds["topics"] >= 40 and kinds["stdlib"] >= 20 and kinds["unanswerable"] >= 6
    sections = {row["gold"][0] for row in ANSWERABLE}
    assert sum(id.startswith("topics/") for id in sections) >= 35 and sum(id.startswith("stdlib/") for id in sections) >= 20


def test_questions_come_in_own_words_and_in_the_manuals():
    styles = Counter(row["style"] for row in ROWS)
    assert set(styles) == {"own words", "manual's words", "unanswerable"} and styles.total() == len(ROWS) == 182
    assert styles["own words"] >= 100 and styles["manual's words"] >= 40 and styles["unanswerable"] >= 14
    assert all((row["style"] == "unanswerable") == (row["kind"] == "unanswerable") for row in ROWS)
    sections = {row["gold"][0] for row in ROWS if row["style"] == "manual's words"}
    assert sum(id.startswith("topics/") for id in sections) >= 24 and sum(id.startswith("stdlib/") for id in sections) >= 16


def test_rows_are_well_formed():
    assert all(list(row) == ["id", "input", "expected", "gold", "kind", "style"] for row in ROWS)
    assert len({row["id"] for row in ROWS}) == len({plain(row["input"]).casefold() for row in ROWS}) == len(ROWS)
    for row in ANSWERABLE:
        assert row["gold"][0].startswith(row["kind"] + "/") and len(set(row["gold"])) == len(row["gold"])
        assert row["expected"] and plain(row["expected"]).casefold() not in plain(row["input"]).casefold()
        assert row["expected"] == plain(row["expected"]) and len(row["expected"]) < 260
    assert all(row["gold"] == [] and row["expected"] == "" for row in ROWS if row["kind"] == "unanswerable")


@pytest.mark.parametrize("row", ANSWERABLE, ids=lambda row: row["id"])
def test_the_first_gold_document_holds_the_answer(row, texts):
    assert set(row["gold"]) <= set(texts)
    assert row["expected"] in plain(texts[row["gold"][0]])


def test_each_answer_is_whole_in_some_chunk(texts):
    "Otherwise no retriever could deliver it."
    for row in ANSWERABLE:
        text = texts[row["gold"][0]]
        assert any(row["expected"] in plain(text[start:end]) for start, end, _ in chunking.split(text)), row["id"]


def test_nothing_here_answers_the_unanswerable(texts):
    corpus = "\n".join(texts.values()).casefold()
    for word in ("pandas", "kubernetes", "git commit", "flask", "css grid", "postgresql", "numpy", "pytorch", "requests.get", "conda",
                 "pip install", "requirements.txt", "view function", "pytest"):  # Django itself is an example pattern in pdb's section
        assert not re.search(rf"\b{re.escape(word)}\b", corpus), word
