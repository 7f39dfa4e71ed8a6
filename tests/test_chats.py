"Sets of conversations: formats that lose nothing, faults that are found, splits that do not leak, sources that are checked."

import contextlib
import copy
import csv
import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmops_nb as ops
from llmops_nb import chat_checks, chat_preview, chat_sources, chat_splits, chats
from llmops_nb.compute.replies import Reply
from llmops_nb.data import lineage
from llmops_nb.errors import InputError, NotFound, StorageError
from llmops_nb.finetune import held_out
from llmops_nb.readers import Wanted
from tests.loopback import Fault
from tests.scripted import Scripted

# --- any row of any format comes back as it was

text = st.text(st.characters(codec="utf-8"), max_size=12)
word = text.filter(bool)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(word, inner, max_size=2),
    max_leaves=4,
)
own = st.fixed_dictionaries(
    {}, optional={"topic": plain_json, "source url": plain_json, "id": word | st.integers(0, 9)}
)  # what somebody added
arguments = st.dictionaries(word, plain_json, max_size=2)


def either(base: dict, **optional) -> st.SearchStrategy:
    """A dict with these values, and perhaps these."""
    return st.builds(lambda row, more: row | more, st.fixed_dictionaries(base, optional=optional), own)


def turn(role: str, **more) -> st.SearchStrategy:
    return st.fixed_dictionaries({"role": st.just(role), "content": text}, optional=more)


@st.composite
def openai_messages(draw) -> list[dict]:
    said = draw(st.lists(turn("system"), max_size=1))
    for n in range(draw(st.integers(1, 3))):
        said.append(draw(turn("user", name=word)))
        if draw(st.booleans()):
            call = {"id": f"c{n}", "type": "function", "function": {"name": draw(word), "arguments": json.dumps(draw(arguments))}}
            said += [
                {"role": "assistant", "content": draw(st.none() | text), "tool_calls": [call]},
                {"role": "tool", "tool_call_id": f"c{n}", "content": draw(text)},
            ]
        said.append(draw(turn("assistant", weight=st.sampled_from([0, 1]))))
    return said


tool = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": word}, optional={"parameters": arguments})}
)
answer = st.lists(turn("assistant"), min_size=1, max_size=1)
asked = st.lists(turn("system"), max_size=1).flatmap(lambda head: turn("user").map(lambda user: [*head, user]))


@st.composite
def sharegpt_turns(draw) -> list[dict]:
    human, gpt = draw(st.sampled_from([("human", "gpt"), ("user", "assistant"), ("human", "chatgpt")]))
    said = [{"from": "system", "value": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        said.append({"from": human, "value": draw(text)})
        if draw(st.booleans()):
            calls = draw(st.lists(st.fixed_dictionaries({"name": word, "arguments": arguments}), min_size=1, max_size=2))
            said.append({"from": "function_call", "value": json.dumps(calls[0] if len(calls) == 1 else calls)})
            said += [{"from": "observation", "value": draw(text)} for _ in calls]
        said.append({"from": gpt, "value": draw(text), **draw(st.fixed_dictionaries({}, optional={"weight": st.sampled_from([0, 1])}))})
    return said


part = st.fixed_dictionaries({"text": word})
file = st.fixed_dictionaries({"fileData": st.fixed_dictionaries({"mimeType": word, "fileUri": word})})


@st.composite
def gemini_contents(draw) -> list[dict]:
    said = []
    for _ in range(draw(st.integers(1, 3))):
        said.append({"role": "user", "parts": draw(st.lists(part | file, min_size=1, max_size=3))})
        if draw(st.booleans()):
            names = draw(st.lists(word, min_size=1, max_size=2))
            calls = [{"functionCall": {"name": name, "args": draw(arguments)}} for name in names]
            said.append({"role": "model", "parts": [*draw(st.lists(part, max_size=1)), *calls]})
            said.append(
                {
                    "role": draw(st.sampled_from(["user", "function"])),
                    "parts": [{"functionResponse": {"name": name, "response": draw(arguments)}} for name in names],
                }
            )
        said.append({"role": "model", "parts": draw(st.lists(part, min_size=1, max_size=2))})
    return said


system = st.fixed_dictionaries({"parts": st.lists(part, min_size=1, max_size=2)}, optional={"role": st.just("system")})
declared = st.lists(
    st.fixed_dictionaries(
        {
            "functionDeclarations": st.lists(
                st.fixed_dictionaries({"name": word}, optional={"parameters": arguments}), min_size=1, max_size=2
            )
        }
    ),
    min_size=1,
    max_size=1,
)
ROWS = {
    "openai": either({"messages": openai_messages()}, tools=st.lists(tool, max_size=2), parallel_tool_calls=st.booleans()),
    "openai_preference": either(
        {
            "input": st.fixed_dictionaries({"messages": asked}, optional={"tools": st.lists(tool, max_size=1)}),
            "preferred_output": answer,
            "non_preferred_output": answer,
        }
    ),
    "trl": either({"prompt": asked, "completion": answer}, tools=st.lists(tool, max_size=2)),
    "trl_preference": either({"prompt": asked, "chosen": answer, "rejected": answer}),
    "trl_implicit": asked.flatmap(
        lambda prompt: either({"chosen": answer.map(lambda said: prompt + said), "rejected": answer.map(lambda said: prompt + said)})
    ),
    "trl_text": either({"prompt": text, "completion": text}),
    "trl_text_preference": either({"prompt": text, "chosen": text, "rejected": text}),
    "alpaca": either(
        {"instruction": text, "output": text},
        input=text,
        system=text,
        history=st.none() | st.lists(st.lists(text, min_size=2, max_size=2), max_size=2),
    ),
    "sharegpt": either(
        {"conversations": sharegpt_turns()},
        system=text,
        tools=st.lists(st.fixed_dictionaries({"name": word, "parameters": arguments}), min_size=1, max_size=2).map(json.dumps),
    ),
    "gemini": either({"contents": gemini_contents()}, systemInstruction=system, tools=declared),
    "examples": either({"input": text, "expected": text}),
}


def alike(value: object) -> object:
    """The same with JSON inside text read: how it is spaced means nothing."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return alike(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {name: alike(part) for name, part in value.items()}
    return [alike(part) for part in value] if isinstance(value, list) else value


def test_every_format_has_rows_to_be_tried() -> None:
    assert set(ROWS) == set(chats.FORMATS)


@pytest.mark.parametrize("name", list(ROWS))
def test_what_was_read_is_written_back_the_same(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(ROWS[name], min_size=1, max_size=3), st.sampled_from(["json", "jsonl"]))
    def holds(rows: list[dict], ending: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / f"a.{ending}", Path(folder) / f"b.{ending}"
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            source.write_text("[" + ", ".join(lines) + "]" if ending == "json" else "\n".join(lines), encoding="utf-8")
            before = copy.deepcopy(rows)
            table = chats.read_chats(source, name)
            assert len(table) == len(rows), list(lineage(table).reason)
            assert chats.write_chats(table, target, name) == {}
            raw = target.read_text(encoding="utf-8")
            again = json.loads(raw) if ending == "json" else [json.loads(line) for line in raw.split("\n") if line]
            assert alike(again) == alike(rows) and rows == before
            back = chats.read_chats(target, name)
            assert back.messages.tolist() == table.messages.tolist()

    holds()


@settings(max_examples=150, deadline=None)
@given(ROWS["openai"], st.sampled_from(list(ROWS)))
def test_between_formats_nothing_is_lost_in_silence(row: dict, name: str) -> None:
    """Either another format says the same, or it is refused with what it would lose."""
    with tempfile.TemporaryDirectory() as folder:
        table, path = chats.read_chats([row], "openai"), Path(folder) / "there.jsonl"
        try:
            chats.write_chats(table, path, name)
        except InputError as error:
            assert not path.exists() and ("would lose" in error.what or error.what.startswith("Row"))
            return
        chats.write_chats(chats.read_chats(path, name), Path(folder) / "back.jsonl", "openai")
        back = json.loads((Path(folder) / "back.jsonl").read_text(encoding="utf-8"))
        assert bare(back) == bare(row)


def bare(row: dict) -> object:
    """What a row says: the names of calls and the spelling of nothing do not count."""
    numbers = {call["id"]: n for n, call in enumerate(call for turn in row["messages"] for call in turn.get("tool_calls", []))}
    said = []
    for turn in row["messages"]:
        one = {name: value for name, value in turn.items() if name not in ("tool_calls", "tool_call_id", "content")}
        one |= {"content": turn["content"]} if turn.get("content") or not turn.get("tool_calls") else {}
        one |= {"calls": [call["function"] for call in turn["tool_calls"]]} if turn.get("tool_calls") else {}
        if turn["role"] == "tool":
            one.pop("name", None)
            one["answers"] = numbers[turn["tool_call_id"]]
        said.append(one)
    return alike({name: value for name, value in row.items() if name != "messages"} | {"messages": said})


def test_published_examples_are_read_and_come_back() -> None:
    """The shapes that the documentation of OpenAI, TRL, LLaMA-Factory and Google show."""
    weather = {
        "type": "function",
        "function": {"name": "get_current_weather", "parameters": {"type": "object", "properties": {"location": {"type": "string"}}}},
    }
    call = {
        "id": "call_id",
        "type": "function",
        "function": {"name": "get_current_weather", "arguments": '{"location": "San Francisco, USA"}'},
    }
    light = {"type": "function", "function": {"name": "control_light", "arguments": {"room": "living room", "state": "on"}}}
    rows = {
        "openai": {
            "messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": [call]}],
            "parallel_tool_calls": False,
            "tools": [weather],
        },
        "trl": {
            "prompt": [{"role": "user", "content": "Lights on."}],
            "completion": [
                {"role": "assistant", "tool_calls": [light]},
                {"role": "tool", "name": "control_light", "content": "On."},
                {"role": "assistant", "content": "Done!"},
            ],
            "tools": [],
        },
        "sharegpt": {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "{}"},
                {"from": "gpt", "value": "b"},
            ],
            "system": "s",
            "tools": '[{"name": "f", "description": "d"}]',
        },
        "gemini": {
            "system_instruction": {"role": "system", "parts": [{"text": "You help."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "In stock?"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "get_sku", "args": {"name": "Pixel"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "get_sku", "response": {"sku": "GA1"}}}]},
                {"role": "model", "parts": [{"text": "Yes."}]},
            ],
            "tools": [{"function_declarations": [{"name": "get_sku", "parameters": {"type": "object"}}]}],
        },
    }
    for name, row in rows.items():
        table = chats.read_chats([row])
        assert chats._write_row(chats.records(table)[0] | {}, chats.FORMATS[name]) | {"id": 0} == row | {"id": 0}, name
    called = chats.read_chats([rows["trl"]])
    assert json.loads(called.messages[0][1]["tool_calls"][0]["function"]["arguments"]) == {"room": "living room", "state": "on"}


# --- reading


def test_one_bad_line_in_many_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = [
        json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}).encode()
        for n in range(3000)
    ]
    good[1234] = b'{"messages": [{"role": "user", "content": "caf\xe9"}]}'
    good[2000] = b'{"messages": NaN}'
    good[2001] = b"[" * 50_000
    good[2500] = b'"just text"'
    good[2600] = b'{"messages": "hello"}'
    (tmp_path / "many.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(good) + b"\r\n\r\n")
    table = chats.read_chats(tmp_path / "many.jsonl")
    notes = lineage(table)
    assert (
        len(table) == 2995
        and list(notes.id) == ["line 1235", "line 2001", "line 2002", "line 2501", "line 2601"]
        and set(notes.action) == {"dropped"}
    )
    assert "0xe9" in notes.reason[0] and "NaN" in notes.reason[1] and "not JSON" in notes.reason[2]
    assert table.id[0] == "line 1" and table.id.is_unique


def test_a_file_is_not_held_in_memory_twice(tmp_path: Path) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "q" * 500}, {"role": "assistant", "content": "a" * 1500}]})
    path = tmp_path / "large.jsonl"
    path.write_text(f"{line}\n" * 8000)
    tracemalloc.start()
    table = chats.read_chats(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 8000 and peak < 2.2 * path.stat().st_size


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_and_arrays_are_read_in_every_encoding_of_documents(tmp_path: Path, encoding: str) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Où est-ce, {n}? 雨"}, {"role": "assistant", "content": "Là."}]} for n in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:2], "{torn", lines[2]]), encoding=encoding)
    (tmp_path / "a.json").write_text("\n [" + ",\n".join(lines) + "]", encoding=encoding)
    table = chats.read_chats(tmp_path / "a.jsonl")
    assert table.messages.tolist() == chats.read_chats(tmp_path / "a.json").messages.tolist() == [row["messages"] for row in rows]
    assert table.id.tolist() == ["line 1", "line 2", "line 4"] and lineage(table).id.tolist() == ["line 3"]


def test_a_line_that_is_too_long_is_named_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "Wanted", lambda: Wanted(max_bytes=200))
    lines = [json.dumps(chat("a" * size, "b")) for size in (1, 300, 2)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = chats.read_chats(tmp_path / "a.jsonl")
    assert table.id.tolist() == ["line 1", "line 3"] and lineage(table).reason.tolist() == ["Line 2 is longer than 200 bytes."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no conversation"),
        ("[]", "no conversation"),
        ("[1, 2", "not JSON"),
        ("hello", "no conversation"),
        ('{"question": "a", "answer": "b"}', "no known format|no conversation"),
        ('{"prompt": "a", "completion": "b"}\n{"instruction": "a", "output": "b"}', "Two formats"),
        (
            '{"prompt": "a", "completion": "b"}\n'
            '{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}',
            "Two formats",
        ),
        ('{"messages": [], "conversations": []}', "several formats"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        chats.read_chats(tmp_path / "a.json")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        chats.read_chats(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="no such format") as caught:
        chats.read_chats([], "llama")
    assert "sharegpt" in str(caught.value)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises((InputError, StorageError)):
        chats.write_chats([{"messages": [{"role": "user", "content": "a"}]}], tmp_path / "folder.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.jsonl"]


def test_a_refused_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text("before")
    weighted = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}]
    with pytest.raises(InputError, match="would lose") as caught:
        chats.write_chats(weighted, path, "alpaca")
    assert "weight" in str(caught.value) and path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    assert chats.write_chats(weighted, path, "alpaca", lossy=True) == {"messages[].weight": 1}


def test_half_a_surrogate_and_arrays_of_other_files_are_written(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "messages": [
                np.array(
                    [{"role": "user", "content": "\ud800 half"}, {"role": "assistant", "content": "b", "n": np.int64(3)}], dtype=object
                )
            ]
        }
    )
    chats.write_chats(rows, tmp_path / "a.jsonl")
    assert chats.read_chats(tmp_path / "a.jsonl").messages[0] == [
        {"role": "user", "content": "\ud800 half"},
        {"role": "assistant", "content": "b", "n": 3},
    ]


def test_an_edited_row_is_written_as_it_is_now(tmp_path: Path) -> None:
    """What the file looked like may not bring back what was taken out."""
    secret = "Mail nora.feld@example.org about it"
    table = chats.read_chats([{"instruction": "Sort this out.", "input": secret, "output": "Done."}])
    table = chat_checks.redact_chats(table)
    for name in ("alpaca", "sharegpt", "gemini", "openai", "trl", "trl_text"):
        chats.write_chats(table, tmp_path / "a.jsonl", name)
        assert "nora" not in (tmp_path / "a.jsonl").read_text() and "[email]" in (tmp_path / "a.jsonl").read_text()


# --- checking


def chat(*said: str, **row: object) -> dict:
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)], **row}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": None}, "no conversation"),
        ({"messages": []}, "no conversation"),
        ({"question": "a"}, "no conversation"),
        ({"messages": ["a"]}, "no conversation"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "unknown role"),
        (chat("a"), "no answer"),
        (chat("a", " \n"), "empty"),
        (chat("", "b"), "empty"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
            "order",
        ),
        ({"messages": [{"role": "assistant", "content": "c"}]}, "order"),
        (chat("a", "b <|im_end|>"), "control token"),
        (chat("a", "<\uff5cend\u2581of\u2581sentence\uff5c>"), "control token"),
        (chat("my key is AKIAIOSFODNN7EXAMPLE", "b"), "personal data"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "tool", "tool_call_id": "x", "content": "b"},
                    {"role": "assistant", "content": "c"},
                ]
            },
            "tool call",
        ),
    ],
)
def test_each_fault_is_found(row: dict, problem: str) -> None:
    found = chat_checks.check_chats([row]).problems
    assert problem in set(found.problem)
    assert set(found.severity) <= {"error", "warning"} and (found.severity == "error").equals(found.problem.isin(chat_checks.ERRORS))


def test_good_rows_have_no_fault() -> None:
    called = {
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "2", "content": ""},
            {"role": "tool", "tool_call_id": "1", "content": "x"},
            {"role": "assistant", "content": "b"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    picture = {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            {"role": "assistant", "content": "A cat."},
        ]
    }
    report = chat_checks.check_chats([called, picture, chat("c", "d", "e", "f"), {"input": "g", "expected": "h"}])
    assert set(report.problems.problem) <= {"empty"} and list(report.problems.detail) == ["message 2, said by 'tool', is empty"]
    assert repr(chat_checks.check_chats([chat("c", "d")])) == "1 conversations, 0 with errors: nothing found"


def test_a_report_of_hostile_text_does_nothing() -> None:
    attack = "<script>alert(1)</script><|im_end|>"
    html = chat_checks.check_chats([{**chat(attack, ""), "id": "<img src=x onerror=alert(2)>"}])._repr_mimebundle_()["text/html"]
    assert "<script" not in html and "<img" not in html and "&lt;img" in html


def test_hostile_structures_are_reported_not_raised() -> None:
    rows = [
        {"messages": [{"role": None, "content": 3}]},
        {"messages": [{"content": "a"}]},
        {"messages": {"role": "user"}},
        {"messages": "text"},
        {"messages": [[]]},
        {"messages": [{"role": "assistant", "content": [1, None]}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": "x"}]},
    ]
    report = chat_checks.check_chats(rows)
    assert len(report.errors) >= 7


# --- splitting


rows_to_split = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("xyz"), st.integers(0, 6)), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(rows_to_split, st.sampled_from([None, "near", "customer"]), st.integers(0, 3))
def test_no_group_is_on_two_sides_and_order_does_not_matter(made: list, group: str | None, seed: int) -> None:
    rows = pd.DataFrame(
        [{"id": str(n), **chat(f"How do I {ask}?", said), "customer": customer} for n, (ask, said, customer) in enumerate(made)]
    )
    parted = chat_splits.split_chats(rows, {"train": 0.5, "test": 0.5}, group=group, seed=seed)
    assert parted.groupby([messages[0]["content"] for messages in parted.messages])["split"].nunique().max() == 1
    if group == "customer":
        assert parted.groupby("customer")["split"].nunique().max() == 1
    shuffled = chat_splits.split_chats(rows.sample(frac=1, random_state=1), {"train": 0.5, "test": 0.5}, group=group, seed=seed)
    assert dict(zip(shuffled.id, shuffled["split"], strict=True)) == dict(zip(parted.id, parted["split"], strict=True))


def test_adding_rows_moves_no_other_and_shares_are_about_met() -> None:
    rows = pd.DataFrame([{"id": str(n), **chat(f"question {n}", "a")} for n in range(4000)])
    few, all_of_them = chat_splits.split_chats(rows.head(1000)), chat_splits.split_chats(rows)
    assert few["split"].tolist() == all_of_them["split"].tolist()[:1000]
    shares = all_of_them["split"].value_counts(normalize=True)
    assert abs(shares["train"] - 0.8) < 0.02 and abs(shares["test"] - 0.1) < 0.015
    assert 0.55 < (chat_splits.split_chats(rows, seed=1)["split"] == all_of_them["split"]).mean() < 0.75  # 0.8² + 2 · 0.1² by chance
    for n in (1, 7, 100, 4000):
        met = chat_splits.split_chats(rows.head(n), exact=True)["split"].value_counts()
        assert all(abs(met.get(name, 0) - share * n) <= 1 for name, share in chat_splits.SHARES.items())
    for wrong in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(InputError, match="parts of one"):
            chat_splits.split_chats(rows, wrong)
    with pytest.raises(InputError, match="no value for the group"):
        chat_splits.split_chats(rows, group="customer")


@settings(max_examples=150, deadline=None)
@given(rows_to_split, st.sampled_from([None, "near", "customer"]), st.integers(0, 3), st.sampled_from([(0.5, 0.5), (0.9, 0.1), (1, 0)]))
def test_a_split_by_topic_loses_nothing_tears_nothing_and_is_always_the_same(
    made: list, group: str | None, seed: int, parts: tuple
) -> None:
    rows = pd.DataFrame(
        [
            {"id": str(n), **chat(f"How do I {ask}?", str(said)), "customer": customer, "topic": said}
            for n, (ask, customer, said) in enumerate(made)
        ]
    )
    shares = dict(zip(("train", "test"), parts, strict=True))
    parted = chat_splits.split_chats(rows, shares, group=group, seed=seed, by="topic")
    assert parted.drop(columns="split").equals(chats.chat_frame(chats.records(rows))) and set(parted["split"]) <= set(shares)
    assert parted.groupby([messages[0]["content"] for messages in parted.messages])["split"].nunique().max() == 1
    if group == "customer":
        assert parted.groupby("customer")["split"].nunique().max() == 1
    if parts == (1, 0):
        assert set(parted["split"]) == {"train"}
    shuffled = chat_splits.split_chats(rows.sample(frac=1, random_state=1), shares, group=group, seed=seed, by=lambda row: row["topic"])
    assert dict(zip(shuffled.id, shuffled["split"], strict=True)) == dict(zip(parted.id, parted["split"], strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.sampled_from([(0.5, 0.5), (0.8, 0.2), (0.8, 0.1, 0.1)]), st.integers(0, 3))
def test_where_groups_are_single_rows_each_topic_has_its_share(sizes: list, parts: tuple, seed: int) -> None:
    keys = [(topic, n) for topic, size in enumerate(sizes) for n in range(size)]
    rows = pd.DataFrame([{"id": f"{topic}-{n}", **chat(f"question {topic} {n}", "a"), "topic": topic} for topic, n in keys])
    shares = dict(zip("abc", parts, strict=False))
    sides = chat_splits.split_chats(rows, shares, seed=seed, by="topic")["split"]
    for name, share in shares.items():
        assert abs((sides == name).sum() - share * len(rows)) < 3
        for topic, size in enumerate(sizes):
            assert abs(((rows["topic"] == topic) & (sides == name)).sum() - share * size) < 3


def test_a_group_too_large_for_its_share_stays_whole_and_the_note_says_so() -> None:
    rows = pd.DataFrame(
        [{"id": str(n), **chat(f"q {n}", "a"), "customer": "big" if n < 60 else f"c{n}", "topic": n % 3} for n in range(100)]
    )
    parted = chat_splits.split_chats(rows, {"train": 0.5, "test": 0.5}, group="customer", by="topic")
    sides = parted["split"].value_counts()
    assert parted.groupby("customer")["split"].nunique().max() == 1 and sorted(sides) == [40, 60]
    assert any("60 of 100 rows, 60.0%; 50.0% was wanted" in reason for reason in lineage(parted).reason)
    with pytest.raises(InputError, match="no value for by"):
        chat_splits.split_chats(rows, by="intent")


def test_each_intent_of_a_real_set_has_its_share_among_the_tests(shared: Path) -> None:
    with open(shared / "support" / "bitext_train.csv", newline="", encoding="utf-8") as file:
        raw = [{"id": f"b{n}", "input": row["instruction"], "expected": row["response"], "intent": row["intent"]}
               for n, row in enumerate(csv.DictReader(file))]  # fmt: skip
    table = chats.read_chats(raw)
    groups = chat_splits.near_groups([messages[0]["content"] for messages in table.messages])
    for seed in range(3):
        parted = chat_splits.split_chats(table, group="near", seed=seed, by="intent")
        met = pd.crosstab(parted["intent"], parted["split"], normalize="index")
        assert len(met) == 27 and parted.id.tolist() == table.id.tolist()
        for name, share in chat_splits.SHARES.items():
            assert (met[name] - share).abs().max() < 0.02
        assert parted.groupby(groups)["split"].nunique().max() == 1
    by_lot = pd.crosstab(table["intent"], chat_splits.split_chats(table, group="near", exact=True)["split"], normalize="index")
    assert (by_lot["test"] - 0.1).abs().max() > 0.05  # what it is without


def test_training_holds_out_by_the_same_rule() -> None:
    rows = [chat(f"question {n % 300}", f"answer {n}") for n in range(600)]
    train, validation = held_out(rows, 0.1)
    sides = chat_splits.split_chats(pd.DataFrame(rows), {"validation": 0.1, "train": 0.9})["split"]
    assert len(train) + len(validation) == 600 and [rows[n] for n in range(600) if sides[n] == "validation"] == validation
    assert not {row["messages"][0]["content"] for row in train} & {row["messages"][0]["content"] for row in validation}


# --- sources


class Says:
    """A model that says what it is told to, per text."""

    spec = "says"

    def __init__(self, reply) -> None:
        self.reply, self.calls = reply, 0

    def chat(self, messages, **_):
        self.calls += 1
        said = self.reply(messages[-1]["content"])
        if isinstance(said, Exception):
            raise said
        return Reply(said, "says")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.integers(0, 40), st.text(max_size=30))
def test_any_reply_is_survived_and_every_span_is_the_quote(reply: str, cut: int, quote: str) -> None:
    document = "The with statement wraps a block.\n\tIt calls __enter__ first, and then “runs” the block."
    said = json.dumps(
        [
            {"question": "q", "answer": "a", "quote": document[cut : cut + 30].replace("\n\t", " ")},
            {"question": "r", "answer": "a", "quote": quote},
            3,
        ]
    )
    for answer in (reply, said, f"```json\n{said}\n``` {reply}", said[:-5]):
        made = chat_sources.from_documents(pd.DataFrame({"id": ["d"], "text": [document]}), Says(lambda _, answer=answer: answer))
        assert all(document[row.start : row.end] == row.quote and row.quote for row in made.itertuples())


def test_spans_are_places_in_the_whole_document() -> None:
    docs = ops.data.load("pydoc:topics").head(20)
    chunks = ops.data.chunk(docs, max_tokens=80, overlap=10)

    def quoting(prompt: str) -> str:
        words = prompt.split("<text>")[1].split("</text>")[0].split()
        return json.dumps([{"question": " ".join(words[:6]) + "?", "answer": "Yes.", "quote": " ".join(words[2:9])}])

    made = chat_sources.from_documents(chunks, Says(quoting), concurrency=2)
    sources = dict(zip(docs.id, docs.text, strict=True))
    assert len(made) > 0.5 * len(chunks) and made.id.is_unique
    assert all(
        sources[row.doc_id][row.start : row.end] == row.quote and len(row.quote.split()) == 7
        for row in made.itertuples()
        if len(row.quote.split()) > 6
    )


def test_failures_are_noted_and_finished_chunks_not_asked_again(tmp_path: Path) -> None:
    chunks = pd.DataFrame({"id": [f"c{n}" for n in range(6)], "text": [f"Rule {n} says so." for n in range(6)]})
    broken = {"Rule 3"}

    def reply(prompt: str):
        rule = prompt.split("<text>\n")[1][:6]
        return (
            RuntimeError("no answer")
            if rule in broken
            else json.dumps({"question": f"What is {rule}?", "answer": "So.", "quote": f"{rule} says so."})
        )

    model = Says(reply)
    first = chat_sources.from_documents(chunks, model, resume=tmp_path / "done.jsonl", concurrency=1)
    assert len(first) == 5 and lineage(first).id.tolist() == ["c3"] and "no answer" in lineage(first).reason[0] and model.calls == 6
    broken.clear()
    assert len(chat_sources.from_documents(chunks, model, resume=tmp_path / "done.jsonl", concurrency=1)) == 6 and model.calls == 7
    with pytest.raises(RuntimeError, match="no answer"):
        chat_sources.from_documents(chunks, Says(lambda _: RuntimeError("no answer")))


PAIR = {"question": "When?", "answer": "At two.", "quote": "Backups run at two."}
REPLIES = {  # what a server answers about each chunk: the reply, rows that come of it, notes, and what a note says
    "good": (json.dumps([PAIR]), 1, 0, ""),
    "fenced": (f"Sure:\n```json\n{json.dumps({'pairs': [PAIR]})}\n```", 1, 0, ""),
    "prose": ("Question: When? Answer: At two.", 0, 1, "no JSON in the reply: Question: When, prose?"),
    "invented": (json.dumps([PAIR | {"quote": "Backups run at three."}]), 0, 1, "not in the text: Backups run at three."),
    "cut": (json.dumps([PAIR, PAIR | {"question": "How often?"}])[:-40], 1, 1, 'no JSON: "question": "How often?"'),
    "a line each": (json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"question": "How late?"}), 2, 0, ""),
    "one broken of three": (
        f'[{json.dumps(PAIR)}, {{"question": "So "far"?"}}, {json.dumps(PAIR | {"question": "Late?"})}]',
        2,
        1,
        "no JSON",
    ),
    "half a pair": (json.dumps([{"question": "When?"}]), 0, 1, "no answer and no quote"),
    "other things": (json.dumps([3, "a", PAIR]), 1, 2, ""),
    "empty": ("", 0, 1, "The reply is empty."),
    "null": ({"content": None}, 0, 1, "The reply is empty."),
    "refusal": ({"content": None, "refusal": "I cannot help with that."}, 0, 1, "I cannot help with that."),
    "tool call": (
        {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        0,
        1,
        "The reply is empty.",
    ),
}


def test_whatever_a_server_replies_becomes_rows_or_notes(tmp_path: Path) -> None:
    chunks = pd.DataFrame({"id": list(REPLIES), "text": [f"About {name}.\nBackups run at\ntwo." for name in REPLIES]})

    def answer(body: dict) -> object:
        name = body["messages"][-1]["content"].split("About ")[1].split(".\n")[0]
        reply = json.dumps(REPLIES[name][0]).replace("hen?", f"hen, {name}?")  # no question twice
        return json.loads(reply)

    with Scripted(answer) as fake:
        model = ops.Model("openai:gpt-5-mini", base_url=fake.url, api_key="sk-loopback")
        made = chat_sources.from_documents(chunks, model, resume=tmp_path / "done.jsonl")
        assert fake.count == len(REPLIES)
        again = chat_sources.from_documents(chunks, model, resume=tmp_path / "done.jsonl")
        assert fake.count == len(REPLIES) and again.equals(made) and lineage(again).equals(lineage(made))
    notes = lineage(made)
    for name, (_, rows, noted, said) in REPLIES.items():
        mine = notes[notes.id == name].reason.tolist()
        assert ((made["doc_id"] == name).sum(), len(mine)) == (rows, noted), name
        assert not said or said in mine[0], (name, mine)
        assert not any("\n" in reason for reason in mine)
    texts = dict(zip(chunks.id, chunks.text, strict=True))
    assert all(texts[row.doc_id][row.start : row.end] == row.quote == "Backups run at\ntwo." for row in made.itertuples())


def test_a_server_that_refuses_a_chunk_costs_that_chunk_alone() -> None:
    chunks = pd.DataFrame({"id": ["a", "b", "c"], "text": ["Backups run at two."] * 3})
    questions = iter(["When?", "How late?"])
    with Scripted(lambda _: json.dumps([PAIR | {"question": next(questions)}])) as fake:
        fake.faults.append(Fault(status=400, code="content_policy_violation"))
        model = ops.Model("openai:gpt-5-mini", base_url=fake.url, api_key="sk-loopback")
        made = chat_sources.from_documents(chunks, model, concurrency=1)
    assert made["doc_id"].tolist() == ["b", "c"] and lineage(made).id.tolist() == ["a"] and "model failed" in lineage(made).reason[0]


def test_traces_that_people_liked_become_rows(ws) -> None:
    @ops.trace(kind="app")
    def desk(question: str) -> str:
        if question == "4":
            raise ValueError("broken")
        return f"answer {question}"

    for n in range(6):
        with contextlib.suppress(ValueError):
            desk(str(n))
    ids = {trace.input["question"]: trace.trace_id for trace in ops.traces.recent(10).itertuples()}
    for n, value in ((0, 1.0), (1, 0.0), (2, 1.0), (4, 1.0)):
        ws.records.write(
            "scores",
            [
                {
                    "id": f"f{n}",
                    "trace_id": ids[str(n)],
                    "scorer": "feedback",
                    "value": value,
                    "state": "scored",
                    "explanation": "",
                    "source": "person",
                    "created_ns": time.time_ns(),
                }
            ],
        )
    ws.records.write(
        "scores",
        [
            {
                "id": "code",
                "trace_id": ids["3"],
                "scorer": "groundedness",
                "value": 1.0,
                "state": "scored",
                "explanation": "",
                "source": "code",
                "created_ns": time.time_ns(),
            }
        ],
    )
    ops.monitor.flag(ids["2"], "made up")
    assert [row[-1]["content"] for row in chat_sources.from_traces().messages] == ["answer 0"]
    ops.monitor.to_training_row("corrections", ids["2"], "The right one.")
    ops.monitor.to_training_row("corrections", ids["5"], "Better.")
    found = chat_sources.from_traces(corrections="corrections")
    assert [[turn["content"] for turn in row] for row in found.messages] == [["0", "answer 0"], ["2", "The right one."], ["5", "Better."]]
    assert found.corrected.tolist() == [False, True, True] and found.trace_id.tolist() == [ids["0"], ids["2"], ids["5"]]
    assert set(lineage(found).id) == {f"trace-{ids[n][:12]}" for n in "14"}
    assert chat_sources.from_traces(app="another").empty
    with pytest.raises(InputError, match="which trace"):
        chat_sources.from_traces(corrections=[{"expected": "a"}])


# --- real data


def test_a_real_support_set_goes_all_the_way(shared: Path, tmp_path: Path) -> None:
    """The steps of the how-to on 3,624 customers' questions."""
    with open(shared / "support" / "bitext_train.csv", newline="", encoding="utf-8") as file:
        raw = [
            {"id": f"b{n}", "instruction": row["instruction"], "output": row["response"], "intent": row["intent"]}
            for n, row in enumerate(csv.DictReader(file))
        ]
    start = time.perf_counter()
    table = chats.read_chats(raw)
    assert len(table) == 3624 and lineage(table).empty
    report = chat_checks.check_chats(table)
    counts = dict(zip(report.counts.problem, report.counts.rows, strict=True))
    clean = chat_checks.dedup_chats(chat_checks.redact_chats(table[~table.id.isin(report.errors)]))
    parted = chat_splits.split_chats(clean, group="near")
    seconds = time.perf_counter() - start
    sides = {name: part for name, part in parted.groupby("split")}
    leaks = chat_checks.check_chats(sides["train"], tests=sides["test"], personal=[]).problems
    naive = parted.sample(frac=1, random_state=0).reset_index(drop=True)
    naive_leaks = chat_checks.check_chats(naive[:2900], tests=naive[2900:], personal=[]).problems
    assert 50 <= counts["conflict"] <= 100 and "duplicate" not in counts and not report.errors  # 76: the same question in other capitals
    assert len(clean) >= 3600
    assert abs(len(sides["train"]) / len(clean) - 0.8) < 0.02 and abs(len(sides["test"]) / len(clean) - 0.1) < 0.02
    assert naive_leaks.problem.isin(["in the tests", "near the tests"]).sum() >= 10  # what a shuffle and a cut would have let through: 27
    assert seconds < 60
    assert not leaks.problem.isin(["in the tests", "near the tests"]).any()
    for name in ("openai", "trl", "alpaca", "sharegpt", "gemini"):
        assert chats.write_chats(sides["train"], tmp_path / "a.jsonl", name) == {}
        assert chats.read_chats(tmp_path / "a.jsonl").messages.tolist() == sides["train"].messages.tolist()


@pytest.mark.parametrize("name", ["openai", "trl", "sharegpt", "gemini"])
def test_a_conversation_with_tools_goes_through_every_format_that_has_them(tmp_path: Path, name: str) -> None:
    calls = [{"id": f"x{n}", "type": "function", "function": {"name": "stock", "arguments": json.dumps({"item": n})}} for n in range(2)]
    row = {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Two of them?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": f"x{n}", "content": "yes"} for n in range(2)),
            {"role": "assistant", "content": "Yes."},
        ],
        "tools": [{"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}}}],
    }
    chats.write_chats([row], tmp_path / "there.jsonl", name)
    chats.write_chats(chats.read_chats(tmp_path / "there.jsonl"), tmp_path / "back.jsonl", "openai")
    assert bare(json.loads((tmp_path / "back.jsonl").read_text())) == bare(row)


# --- what the libraries of these formats make of our files


def test_the_openai_library_knows_the_messages_that_come_from_other_formats() -> None:
    pydantic = pytest.importorskip("pydantic")
    chat = pytest.importorskip("openai.types.chat")
    message, declared = (pydantic.TypeAdapter(kind) for kind in (chat.ChatCompletionMessageParam, chat.ChatCompletionToolParam))
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b"},
            ],
            "tools": '[{"name": "f"}]',
        },
        {
            "contents": [
                {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "1"}}}]},
                {"role": "model", "parts": [{"text": "b"}]},
            ],
            "tools": [{"functionDeclarations": [{"name": "f"}]}],
        },
    ]
    for row in rows:
        table = chats.read_chats([row])
        assert [message.validate_python(turn, strict=True)["role"] for turn in table.messages[0]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
        assert declared.validate_python(table.tools[0][0])["function"]["name"] == "f"


@pytest.fixture(scope="module")
def tokenizer():
    """A small one with a template that marks what the assistant says."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["How do I cancel?"], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", chat_template=template)


def test_trl_learns_what_the_preview_shows(tokenizer, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    table = chats.read_chats(Path(__file__).parent.parent / "nbs" / "support_chats.jsonl")
    single = table[[len(messages) == 3 and messages[-1]["content"] != "" for messages in table.messages]].head(20)
    chats.write_chats(single, tmp_path / "a.jsonl", "trl", lossy=True)
    shown = chat_preview.preview(tokenizer, single.to_dict("records"), 20, max_tokens=4096).tokens
    for place, line in enumerate((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()):
        rendered = trl.apply_chat_template(json.loads(line), tokenizer)
        row = shown[shown["row"] == place]
        assert tokenizer.decode(row["id"].tolist()) == rendered["prompt"] + rendered["completion"]
        assert tokenizer.decode(row[row["label"] != -100]["id"].tolist()) == rendered["completion"]


def test_an_answer_of_weight_0_is_read_and_not_learned(tokenizer) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "right", "weight": 1},
    ]
    shown = chat_preview.preview(tokenizer, [{"messages": messages}]).tokens
    assert tokenizer.decode(shown[shown["label"] != -100]["id"].tolist()) == "right<|end|>"
    refused = chat_preview.preview(tokenizer, [{"messages": messages[:2]}])
    assert len(refused.problems) == 1 and "weight 0" in refused.problems[0]
    report = chat_checks.check_chats([{"messages": messages[:2]}], tokenizer)
    assert set(report.problems.problem) == {"nothing to learn"} and report.errors == ["0"]
