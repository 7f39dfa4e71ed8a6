"Stage 2 on bad input, and properties that hold for every text."
import csv
import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops_nb import chunking, data, python_manual
from llmops_nb.errors import InputError, NotFound, StorageError


def docs(*texts, **columns):
    return pd.DataFrame({"id": [f"d{n}" for n in range(len(texts))], "text": list(texts), **columns})


# --- loading: one clear error for what was named, a reason for what was found


def test_a_folder_keeps_what_can_be_read(tmp_path):
    (tmp_path / "b.md").write_text("# B")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("A")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.txt").write_text("hidden")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    table = data.load(tmp_path)
    assert table.id.tolist() == ["b.md", "sub/a.txt"] and list(table.columns) == ["id", "text", "source", "metadata"]
    assert table.metadata.tolist() == [{"title": "b"}, {"title": "a"}]
    notes = data.lineage(table).set_index("id")
    assert set(notes.index) == {"empty.txt", "latin.txt", "nul.txt", "photo.jpg"} and set(notes.action) == {"dropped"}
    assert "position 3" in notes.reason["latin.txt"] and "NUL" in notes.reason["nul.txt"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("photo.jpg", b"\xff\xd8", "'.jpg' are not read"),
    ("noext", b"text", "are not read"),
    ("nul.txt", b"a\0b", "binary"),
    ("latin.txt", "café".encode("latin-1"), "0xe9 at position 3"),
    ("torn.txt", b"\xff\xfea", "not UTF-16"),
    ("empty.txt", b"", "no document"),
    ("bad.ipynb", b"{}", "not a notebook"),
    ("bad.csv", b"title,body\na,b\n", "no column named text"),
    ("quote.csv", b'id,text\na,"never closed\n', "not a readable CSV"),
])
def test_a_named_file_must_be_readable(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        data.load(tmp_path / name)
    assert name in str(caught.value)


def test_a_gigabyte_is_refused_without_being_read(tmp_path):
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(2**30)  # a sparse file: reading it would take a second and a gigabyte
    (tmp_path / "note.txt").write_text("small")
    started = time.perf_counter()
    with pytest.raises(InputError, match="1,073,741,824 bytes") as caught:
        data.load(tmp_path / "huge.txt")
    assert "max_bytes=1073741824" in caught.value.next_step
    assert data.load(tmp_path).id.tolist() == ["note.txt"]
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(("source", "error"), [
    ("nowhere.txt", NotFound), ("nowhere/*.md", NotFound), ("gopher://bucket/key", InputError), ("pydoc:nothing", NotFound),
    ("pydoc:../x", InputError), (42, InputError),
    ([], InputError), ([3], InputError),
])
def test_a_source_that_is_none(source, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        data.load(source)


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(NotFound, match=r"\.md"):
        data.load(tmp_path)


def test_a_folder_of_nothing_usable_says_why(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(InputError, match="a.bin: Files ending in '.bin'"):
        data.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(StorageError):
        data.load(tmp_path / "a.txt")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone.txt")
    table = data.load(tmp_path)
    assert table.id.tolist() == ["a.txt"] and data.lineage(table).id.tolist() == ["dangling.txt"]


def test_the_same_id_twice_is_an_error(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.md").write_text(name)
    with pytest.raises(InputError, match=r"id 'readme.md'"):
        data.load([tmp_path / "one" / "readme.md", tmp_path / "two" / "readme.md"])
    assert data.load(tmp_path).id.tolist() == ["one/readme.md", "two/readme.md"]
    assert data.load(tmp_path / "*" / "readme.md").id.tolist() == ["one/readme.md", "two/readme.md"]


def test_byte_order_marks(tmp_path):
    for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / f"{codec}.txt").write_bytes("naïve 😀".encode(codec))
    assert set(data.load(tmp_path).text) == {"naïve 😀"}


def test_tables_keep_their_good_rows(tmp_path):
    lines = ['{"id": "x", "text": "one", "tags": ["a"], "n": 1}', "", "not json", "[1]", '{"text": null}', '{"text": "two\\u2028lines"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = data.load(tmp_path / "a.jsonl")
    assert table.id.tolist() == ["x", "a.jsonl:line 6"] and table.text[1] == "two\u2028lines"
    assert table.metadata[0] == {"title": "x", "tags": '["a"]', "n": 1}
    assert data.lineage(table).id.tolist() == ["a.jsonl:line 3", "a.jsonl:line 4", "a.jsonl:line 5"]
    long, limit = "x" * 300_000, csv.field_size_limit()
    (tmp_path / "b.csv").write_text(f'id,text,lang\n1,"line\nbreak",en\n2,short\n3,{long},de\n4,a,b,c\n')
    table = data.load(tmp_path / "b.csv")
    assert table.id.tolist() == ["1", "3"] and table.text.tolist() == ["line\nbreak", long] and csv.field_size_limit() == limit
    assert data.lineage(table).id.tolist() == ["b.csv:line 4", "b.csv:line 6"]


def test_html_is_read_not_run(tmp_path):
    (tmp_path / "a.html").write_text("<title>T</title><style>p{}</style><script>document.write('x')</script>"
                                     "<p>One<br>two &lt;b&gt;</p><ul><li>three</li></ul>")
    table = data.load(tmp_path / "a.html")
    assert table.text[0] == "One\ntwo <b>\n\n- three" and table.metadata[0] == {"title": "T"}
    (tmp_path / "b.html").write_text("<p>never closed <script> if (a<b) {")
    assert data.load(tmp_path / "b.html").text[0].strip() == "never closed"


# --- the manual


def test_the_manual_is_the_same_twice_and_imports_nothing():
    code = ("import json, sys; from llmops_nb import python_manual as m; entries = list(m.docstrings());"
            "print(json.dumps([entries, sorted({'tkinter', 'asyncio', 'turtle', 'unittest', 'antigravity'} & set(sys.modules))]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    entries, imported = json.loads(done.stdout)
    assert imported == [] and entries == [list(entry) for entry in python_manual.docstrings()]


# --- steps: a new table each time, the input as it was


def test_steps_leave_their_input_alone():
    table = docs("A \r\n\r\n\r\n\r\nb\u0301", "a\n\nb\u0301", None, metadata=[{"k": 1}, {}, {}])
    table.attrs["mine"] = 1
    before = table.copy(deep=True)
    cleaned = data.clean(table)
    result = data.chunk(data.dedup(cleaned))
    pd.testing.assert_frame_equal(table, before)
    assert table.attrs == {"mine": 1} and table.metadata[0] == {"k": 1}
    assert cleaned.text.tolist() == ["A\n\nb\u0301", "a\n\nb\u0301"]
    assert data.lineage(result)[["id", "step", "action"]].values.tolist() == [
        ["d0", "clean", "changed"], ["d2", "clean", "dropped"], ["d1", "dedup", "dropped"]]
    assert result.metadata[0] == {"title": "d0", "k": 1}


def test_lineage_survives_pandas():
    table = data.clean(docs("a ", "", "b"))
    assert len(data.lineage(table[table.id != "d0"])) == len(data.lineage(table.copy(deep=True))) == 2
    assert len(pd.concat([table, table.assign(id=["x", "y"])])) == 4
    assert data.lineage(docs("a")).empty


@pytest.mark.parametrize("step", [data.clean, data.dedup, data.chunk])
def test_steps_refuse_what_is_no_table_of_documents(step):
    twice, missing = pd.DataFrame({"id": ["a", "a"], "text": ["x", "y"]}), pd.DataFrame({"id": [None], "text": ["x"]})
    for bad in ("text", pd.DataFrame({"body": ["a"]}), twice, missing):
        with pytest.raises(InputError):
            step(bad)
    if step is not data.clean:
        with pytest.raises(InputError, match="no text"):
            step(docs("a", None))
    assert len(step(docs())) == 0


def test_an_empty_document_has_no_chunk_and_a_reason():
    result = data.chunk(docs(" \n", "a"))
    assert result.id.tolist() == ["d1#0"] and data.lineage(result).id.tolist() == ["d0"]
    assert list(result.columns) == data.CHUNK_COLUMNS


@pytest.mark.parametrize("sizes", [(0, 0), (-1, 0), (10, 10), (10, -1), (10.0, 2), (None, 0)])
def test_sizes_that_cannot_work(sizes):
    with pytest.raises(InputError, match="no room"):
        data.chunk(docs("a"), *sizes)


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    once = data.clean(docs(text))
    assert data.clean(once).text.tolist() == once.text.tolist()
    "".join(once.text).encode()  # no lone surrogate is left to break a database


# --- chunking: the promises hold for every text

SNIPPETS = ["word", "longerwordthanothers", " ", "\n", "\n\n", "\t", "    ", ". ", "! A", ":\n\n    code\n", "# H\n", "```\n", "~~~\n",
            ">>> f(1)\n", "T\n===\n", "日本語。", "é", "e\u0301", "😀", "\u00a0", "\u2028", "123456", "_", "(", ")", "\r\n", "\x1f"]
TEXTS = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(SNIPPETS), max_size=120).map("".join))
TOKENIZERS = [None, str.split, len, lambda text: len(text.encode("utf-8", "surrogatepass")), lambda text: [0, *text.split(), 1]]


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(6, 40), st.data(), st.sampled_from(TOKENIZERS))
@example("x" * 1000, 8, None, None)
def test_chunks_are_spans_cover_everything_and_keep_the_limit(text, size, draw, tokenizer):
    overlap = draw.draw(st.integers(0, size - 1)) if draw else 3
    reached, previous = 0, -1
    for start, end, tokens in chunking.split(text, size, overlap, tokenizer):
        piece = text[start:end]
        assert previous < start < end <= len(text) and end > reached
        assert tokens == chunking.count_tokens(piece, tokenizer) <= size
        assert not text[reached:start].strip(), "something was left out"
        if tokenizer is None:
            assert chunking.count_tokens(text[start:reached]) <= overlap
        assert piece.rstrip() == piece
        reached, previous = end, start
    assert not text[reached:].strip()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["Some words come first.", "More follow here, and more.", "# Title", "a = 1"]), max_size=8),
       st.lists(st.sampled_from(["x = 1", "", "    y = 2", "# comment", "print(x)"]), min_size=1, max_size=6), st.integers(0, 12))
def test_code_that_fits_is_never_cut(before, code, overlap):
    block = "```python\n" + "\n".join(code) + "\n```"
    text = "\n\n".join([*before, block, *before])
    if chunking.count_tokens(block) <= 40:
        first, last = text.index(block), text.index(block) + len(block)
        spans = [(start, end) for start, end, _ in chunking.split(text, 40, overlap)]
        assert any(start <= first and last <= end for start, end in spans)
        assert not any(first < edge < last for span in spans for edge in span)


@pytest.mark.parametrize("unit", ["x", ".", " ", "\n", "`", "```\n", "\n\n    a",
                                   ":\n\n   a\n", ">>> a\n", "A. ", "a\n===\n", "# ", "日", "\t\n", "~~~", "    \n", "[\"'"])
def test_time_grows_with_length_only(unit):
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        started = time.process_time()
        for _ in chunking.split(text, 64, 8):
            pass
        return time.process_time() - started

    seconds(1000)
    assert seconds(800_000) < 14 * max(seconds(200_000), 0.02)  # 4 would be linear, 16 quadratic


def test_a_tokenizer_that_returns_no_tokens_is_refused():
    with pytest.raises(InputError, match="returns its tokens"):
        chunking.count_tokens("a", str.upper)
    with pytest.raises(InputError, match="at least 6"):
        list(chunking.split("a", 5, 0, lambda text: 6 * len(text)))
