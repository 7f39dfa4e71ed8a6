"""Personal data in texts: a shop's customers, numbers that only look like something, text made to be slow, what is left."""

import json
import random
import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmops_nb as ops
from llmops_nb import personal
from llmops_nb.errors import InputError, MissingExtra

KEY = b"0123456789abcdef"
PERSONAL = ["ada@example.org", "+44 20 7946 0958", "4111 1111 1111 1111", "203.0.113.9", "DE89370400440532013000", "2001:db8::1"]
PIECES = st.sampled_from([*PERSONAL, " ", ",", "x"])


def test_every_real_customers_address_is_found_and_replaced(shared: Path) -> None:
    users = list(json.loads((shared / "support" / "retail_data_users.json").read_text()).values())
    docs = pd.DataFrame({"id": [f"u{n}" for n in range(len(users))], "text": [json.dumps(user) for user in users]})
    found = ops.data.pii(docs, "email")
    assert len(found) == len(users) >= 400 and found.id.is_unique
    safe = ops.data.redact(docs, "email")
    assert not any(user["email"] in text for user, text in zip(users, safe.text, strict=True))
    assert ops.data.lineage(safe).reason.unique().tolist() == ["1 x email"]


@given(st.lists(PIECES, max_size=12).map("".join))
def test_nothing_is_left_and_nothing_else_is_touched(text: str) -> None:
    found = personal.find(text)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    left, end = [], 0
    for one in found:
        left.append(text[end : one.start])
        end = one.end
    assert personal.replaced(text, found, lambda one: "\0").split("\0") == [*left, text[end:]]


def test_random_numbers_are_seldom_taken_for_something() -> None:
    rng = random.Random(0)
    digits = ["".join(rng.choices("0123456789", k=16)) for _ in range(5000)]
    assert sum(map(personal.is_card, digits)) / 5000 < 0.06  # a tenth of those in an issuer's range
    letters = ["GB" + "".join(rng.choices("0123456789", k=20)) for _ in range(5000)]
    assert sum(map(personal.is_iban, letters)) / 5000 < 0.02
    for digit in "0123456789":
        assert personal.is_card(f"411111111111111{digit}") == (digit == "1")


PLAIN = ["version 1.2.3.4.5", "at 12:30:45", "id 20261125120000", "3.141592653589793", "a@b", "::", "std::vector", "127.0.0.1"]


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert personal.find(text) == []


@pytest.mark.parametrize("text", ["a" * 200_000, "a@" * 100_000, "1 " * 100_000, "AB12 " * 40_000, ":" * 200_000, "a@" + "a." * 100_000])
def test_text_made_to_be_slow_is_not(text: str) -> None:
    began = time.perf_counter()
    personal.find(text)
    assert time.perf_counter() - began < 10


def test_the_same_person_has_the_same_mark_and_only_with_the_key() -> None:
    docs = pd.DataFrame({"id": ["a", "b"], "text": ["Ada@Example.org", "write to ada@example.org"]})
    marks = [ops.data.redact(docs, key=key).text.tolist() for key in (KEY, KEY, KEY[::-1])]
    assert marks[0] == marks[1] != marks[2] and marks[0][0] == marks[0][1].removeprefix("write to ")
    with pytest.raises(InputError, match="too short"):
        ops.data.redact(docs, key=b"short")


def test_without_phonenumbers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    docs = pd.DataFrame({"id": ["a"], "text": ["ada@example.org"]})
    with pytest.raises(MissingExtra, match="pii"):
        ops.data.pii(docs)
    assert len(ops.data.pii(docs, ["email", "card"])) == 1


class FakeAnalyzer:
    "Answers as Presidio's AnalyzerEngine is documented to, from a list of entity_type, value, score."

    def __init__(self, *known: tuple[str, str, float], languages: tuple[str, ...] = ("en",)) -> None:
        self.known, self.supported_languages, self.asked = known, list(languages), list[tuple[int, str]]()

    def get_supported_entities(self, language: str | None = None) -> list[str]:
        return list({entity for entity, _, _ in self.known})

    def analyze(self, text: str, language: str) -> list[SimpleNamespace]:
        self.asked.append((len(text), language))
        return [
            SimpleNamespace(entity_type=entity, start=match.start(), end=match.end(), score=score)
            for entity, value, score in self.known
            for match in re.finditer(re.escape(value), text)
        ]


ADA = FakeAnalyzer(("PERSON", "Ada Lovelace", 0.85), ("LOCATION", "London", 0.85), ("EMAIL_ADDRESS", "ada@example.org", 1.0))


def test_an_analyzers_findings_join_ours() -> None:
    docs = pd.DataFrame({"id": ["a", "b"], "text": ["Ada Lovelace of London, ada@example.org, 4111 1111 1111 1111", "ADA LOVELACE"]})
    found = ops.data.pii(docs, analyzer=ADA)
    assert found.kind.tolist() == ["person", "location", "email", "card"] and found.masked[0] == "ad•••••••ce"
    safe = ops.data.redact(docs, analyzer=ADA)
    assert safe.text[0] == "[person] of [location], [email], [card]"
    assert ops.data.lineage(safe).reason.tolist() == ["1 x person, 1 x location, 1 x email, 1 x card"]
    assert ops.data.pii(docs, ["person", "card"], analyzer=ADA).kind.tolist() == ["person", "card"]
    with pytest.raises(InputError, match="no such kind") as caught:
        ops.data.pii(docs, "name", analyzer=ADA)
    assert "person" in str(caught.value)


def test_conversations_are_searched_by_an_analyzer_as_well() -> None:
    turns = [{"role": "user", "content": "Ada Lovelace, ada@example.org"}, {"role": "assistant", "content": "London?"}]
    rows = pd.DataFrame({"id": ["a"], "messages": [turns]})
    safe = ops.data.redact_chats(rows, None, analyzer=ADA)
    assert [turn["content"] for turn in safe.messages[0]] == ["[person], [email]", "[location]?"]
    assert ops.data.lineage(safe).reason.tolist() == ["1 x person, 1 x email, 1 x location"]
    assert ops.data.redact_chats(rows, analyzer=ADA).messages[0][0]["content"] == "Ada Lovelace, [email]"


def test_a_value_has_one_mark_whoever_found_it_and_however_it_is_written() -> None:
    known = {"PERSON": ["Ada Lovelace", "ada\nlovelace"], "US_SSN": ["219-09-9999", "219 09 9999"]}
    analyzer = FakeAnalyzer(*[(entity, value, 0.5) for entity, values in known.items() for value in values])
    docs = pd.DataFrame({"id": ["a", "b"], "text": ["Ada Lovelace, 219-09-9999", "ada\nlovelace, 219 09 9999"]})
    one, other = ops.data.redact(docs, key=KEY, analyzer=analyzer).text
    assert one == other and one.startswith("[person:") and "lovelace" not in one.lower()
    only_theirs = FakeAnalyzer(("CREDIT_CARD", "4111-1111-1111-1111", 1.0))
    marks = [
        personal.replaced(text, personal.find(text, "card", analyzer=who), personal.pseudonyms(KEY))
        for text, who in (("4111 1111 1111 1111", None), ("4111-1111-1111-1111", only_theirs))
    ]
    assert marks[0] == marks[1]


OVERLAPS = [
    ([("PERSON", "Ada ada@example.org", 0.9)], "Ada ada@example.org", ["person Ada", "email ada@example.org"]),  # ours was checked
    ([("URL", "example.org", 1.0)], "ada@example.org", ["email ada@example.org"]),
    ([("PERSON", "Ada King", 0.5), ("NRP", "King of York", 0.9)], "Ada King of York", ["person Ada", "nrp King of York"]),  # the surest
    ([("PERSON", "Ada", 0.9), ("PERSON", "Ada King", 0.9)], "Ada King", ["person Ada King"]),  # equally sure: the longest
    ([("A_B", "12345", 0.5), ("A_A", "12345", 0.5)], "12345", ["a_a 12345"]),
    ([("X", "(Ada)", 0.5)], "(Ada)", ["x (Ada)"]),  # a whole span is as the analyzer has it
    ([("X", "Ada, ", 0.5), ("Y", "Ada", 0.9)], "Ada, ", ["y Ada"]),  # what is left says nothing
]


@pytest.mark.parametrize(("known", "text", "expected"), OVERLAPS)
def test_every_character_has_one_owner(known: list[tuple[str, str, float]], text: str, expected: list[str]) -> None:
    assert [f"{one.kind} {text[one.start : one.end]}" for one in personal.find(text, analyzer=FakeAnalyzer(*known))] == expected


PLACE = st.integers(-5, 60)
SPAN = st.tuples(PLACE, PLACE, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(["PERSON", "URL", "CREDIT_CARD"]))


@given(st.lists(st.one_of(PIECES, st.sampled_from(["Ada", "(", "é"])), max_size=8).map("".join), st.lists(SPAN, max_size=8))
def test_no_letter_or_digit_that_an_analyzer_found_is_left(text: str, spans: list[tuple[int, int, float, str]]) -> None:
    analyzer = FakeAnalyzer()
    analyzer.analyze = lambda text, language: [SimpleNamespace(start=a, end=b, score=c, entity_type=d) for a, b, c, d in spans]  # type: ignore[method-assign]
    found = personal.find(text, analyzer=analyzer)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    covered = {place for one in found for place in range(one.start, one.end)}
    assert {place for start, end, _, _ in spans for place in range(max(start, 0), min(end, len(text))) if text[place].isalnum()} <= covered
    ours = {(one.kind, one.start, one.end) for one in personal.find(text)}
    assert ours <= {(one.kind, one.start, one.end) for one in found}


@pytest.mark.parametrize("space", [" ", "\n", "\t"])
def test_a_long_text_is_read_in_parts_and_nothing_at_their_edges_is_lost(space: str) -> None:
    analyzer = FakeAnalyzer(("PERSON", "Ada Lovelace", 0.85), ("PERSON", "Lovelace", 0.85), languages=("en", "de"))
    for before in (*range(9_480, 9_520), *range(9_980, 10_020)):
        text = ("x" * (before - 1) + space + "Ada Lovelace ") * 3
        assert [text[one.start : one.end] for one in personal.find(text, analyzer=analyzer)] == ["Ada Lovelace"] * 3
    assert max(size for size, _ in analyzer.asked) <= personal.WINDOW and {language for _, language in analyzer.asked} == {"en", "de"}
    assert len("".join(part for _, part in personal._windows("x" * 100_000))) < 110_000


def test_what_is_no_analyzer_is_refused() -> None:
    for wrong in ("spacy", "presidio_analyzer", FakeAnalyzer, 3):
        with pytest.raises(InputError, match="no such analyzer"):
            ops.data.pii(pd.DataFrame({"id": [], "text": []}), analyzer=wrong)


def test_without_presidio_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    personal._presidio.cache_clear()
    with pytest.raises(MissingExtra, match=r"llmops_nb\[presidio\]"):
        ops.data.redact(pd.DataFrame({"id": ["a"], "text": ["Ada"]}), analyzer="presidio")


@pytest.fixture
def presidio() -> ModuleType:
    "The real one."
    return pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is not installed")


def test_presidio_finds_numbers_of_authorities_without_model_and_network(presidio: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail(f"It called {args}."))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail(f"It looked up {args}."))
    personal._presidio.cache_clear()
    text = "SSN 219-09-9999, NHS 943 476 5919, DNI 12345678Z, NIE X1234567L, CF RSSMRA85T10A562S, PESEL 44051401359, ada@example.org, see https://example.org"
    kinds = [one.kind for one in personal.find(text, analyzer="presidio")]
    assert kinds == ["us_ssn", "uk_nhs", "es_nif", "es_nie", "it_fiscal_code", "pl_pesel", "email"]
    plain = "SSN 219-00-9999, NHS 943 476 5918, DNI 12345678A, order 219099999 of 3 May 2026, version 2.2.366"
    assert personal.find(plain, analyzer="presidio") == []


@pytest.mark.parametrize("model", ["en_core_web_none", "nowhere/model", "numpy", "."])
def test_a_model_that_is_missing_is_not_downloaded(presidio: ModuleType, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    import spacy.cli

    monkeypatch.setattr(spacy.cli, "download", lambda *args: pytest.fail(f"It downloads {args}."))
    with pytest.raises(InputError, match="spacy download"):
        ops.data.redact(pd.DataFrame({"id": ["a"], "text": ["Ada"]}), analyzer=f"presidio:{model}")


def test_a_real_spacy_model_brings_names_and_the_words_beside_numbers(presidio: ModuleType, tmp_path: Path) -> None:
    import spacy

    model = spacy.blank("en")  # rules in place of weights: what is tested is the way to it
    known = [("PERSON", "Ada Lovelace"), ("GPE", "London"), ("DATE", "1843")]
    model.add_pipe("entity_ruler").add_patterns([{"label": label, "pattern": pattern} for label, pattern in known])
    model.to_disk(tmp_path / "rules")
    long = "somebody " * 120_000 + "Ada Lovelace left London in 1843."  # spaCy alone refuses it
    docs = pd.DataFrame({"id": ["a", "b"], "text": ["Ada Lovelace, SSN 219-09-9999.", long]})
    safe = ops.data.redact(docs, ["person", "location", "us_ssn"], analyzer=f"presidio:{tmp_path / 'rules'}")
    assert safe.text[0] == "[person], SSN [us_ssn]." and safe.text[1].endswith("somebody [person] left [location] in 1843.")


def test_an_engine_of_ones_own_is_used_as_it_is_and_travels_to_other_processes(presidio: ModuleType) -> None:
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    tickets = presidio.PatternRecognizer("TICKET", patterns=[presidio.Pattern("ticket", r"\bT-\d{4}\b", 0.2)])
    engine = presidio.AnalyzerEngine(presidio.RecognizerRegistry([tickets]), NoOpNlpEngine([{"lang_code": "en", "model_name": ""}]))
    docs = pd.DataFrame({"id": ["a", "b"], "text": ["T-1234 of ada@example.org", "none"]})
    safe = [ops.data.redact(docs, key=KEY, engine=where, analyzer=engine) for where in (None, "processes")]
    assert safe[0].equals(safe[1]) and safe[0].text[0].startswith("[ticket:") and safe[0].text[1] == "none"
