"""Personal data in texts: a shop's customers, numbers that only look like something, text made to be slow, what is left."""

import json
import random
import time
from pathlib import Path

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
    import sys

    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    docs = pd.DataFrame({"id": ["a"], "text": ["ada@example.org"]})
    with pytest.raises(MissingExtra, match="pii"):
        ops.data.pii(docs)
    assert len(ops.data.pii(docs, ["email", "card"])) == 1
