"""The lake under what happens to it: killed writers, full disks, hostile names and SQL, frames that disagree, and real servers."""

import contextlib
import datetime as dt
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import finish, kill, start
from hypothesis import given, settings
from hypothesis import strategies as st

import llmops_nb as ops
from llmops_nb.errors import InputError, MissingExtra, NotFound, OpsError, StorageError
from llmops_nb.storage import lake_columns, lake_drafts, lake_remote
from llmops_nb.storage.lake_databases import Postgres, Warehouse

pytest.importorskip("duckdb")
same = pd.testing.assert_frame_equal


def docs(count: int = 10, first: int = 0) -> pd.DataFrame:
    numbers = range(first, first + count)
    return pd.DataFrame(
        {
            "id": [f"d{n}" for n in numbers],
            "text": [f"text {n} é\n" * 3 for n in numbers],
            "metadata": [{"n": n} if n % 3 else {"title": f"t{n}", "tags": ["a", n]} for n in numbers],
        }
    )


def left(name: str) -> list[str]:
    """What lies beside the versions of a table."""
    folder = ops.workspace.current().path / "lake" / name
    return sorted(path.name for path in folder.iterdir() if path.name not in ("current", ".lock") and len(path.name) != 16)


# --- what goes in comes out

EVERYTHING = pd.DataFrame(
    {
        "text": ["a", None, ""],
        "dict": [{"a": 1, "b": {"c": [1, None]}}, None, {}],
        "messages": [[{"role": "user", "content": "hi"}], [], None],
        "mixed list": [[1, "a", 2.5], None, [None]],
        "vector": [np.float32([1, 2]), np.float32([]), np.float32([3, 4])],
        "int": [1, 2, 3],
        "big": np.array([2**63, 1, 2], dtype="uint64"),
        "nullable": pd.array([2**60 + 1, None, 3], dtype="Int64"),
        "float": [0.1, np.nan, np.inf],
        "half": np.array([1, 2, 0.5], dtype="float16"),
        "bool": [True, False, True],
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "bytes": [b"\x00\xff", None, b""],
        "zone": pd.to_datetime(["2026-03-29 01:30", None, "2026-10-25 12:00"]).tz_localize("Europe/Paris"),
        "naive": pd.to_datetime(["2026-01-01", None, "1900-01-01"]).astype("datetime64[ns]"),
        "span": pd.to_timedelta([1, None, 3], unit="s"),
        "date": [dt.date(2026, 1, 1), None, dt.date(1, 1, 1)],
        "clock": [dt.time(1, 2, 3), None, dt.time(0)],
        "money": [Decimal("1.20"), None, Decimal("-3.45")],
        "kind": pd.Categorical(["b", None, "a"], categories=["a", "b", "c"], ordered=True),
        "number kind": pd.Categorical([2, 1, None], categories=[1, 2]),
        "string": pd.array(["x", None, "y"], dtype="string"),
        "arrow": pd.array([1, None, 3], dtype="int64[pyarrow]"),
        "nothing": [None, None, None],
        'odd "name"; --': [1, 2, 3],
    }
)


def test_every_kind_of_column_comes_back(ws) -> None:
    ops.lake.write("all", EVERYTHING)
    back = ops.lake.read("all")
    for name in EVERYTHING:
        if name == "vector":
            assert all(np.array_equal(one, two) and one.dtype == two.dtype for one, two in zip(back[name], EVERYTHING[name], strict=True))
        else:
            same(back[[name]], EVERYTHING[[name]])
    same(ops.lake.read("all", columns=["int", "dict"]), EVERYTHING[["int", "dict"]])
    assert pd.read_parquet(next((ws.path / "lake/all").glob("*/rows.parquet")))["int"].tolist() == [1, 2, 3]  # anybody can read it


def test_a_table_without_rows_keeps_its_columns_and_notes(ws) -> None:
    empty = EVERYTHING.drop(columns=["vector", "dict", "messages", "mixed list"]).iloc[:0]
    empty.attrs["lineage"] = ({"id": "gone"},)
    ops.lake.write("none", empty)
    back = ops.lake.read("none")
    assert list(back) == list(empty) and len(back) == 0 and back.attrs["lineage"] == ({"id": "gone"},)
    assert (back.dtypes == empty.dtypes).all()
    assert [list(frame) for frame in ops.lake.batches("none")] == [list(empty)]
    assert ops.lake.query("SELECT count(*) AS n FROM none").n[0] == 0


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.none() | st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.floats(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_a_version_says_what_the_rows_are_and_not_how_they_came(rows: list, data: st.DataObject) -> None:
    text, meta, number, real = zip(*rows, strict=True)
    frame = pd.DataFrame({"text": text, "meta": pd.Series(meta, dtype=object), "int": pd.array(number, dtype="Int64"), "float": real})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    pieces = [frame[one:two] for one, two in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = frame.copy()
    changed.loc[place, "text"] = frame.text[place] + "x"
    names, back = [], []
    for one in ([frame], pieces, [changed]):
        name, got = drafted(*one)
        names.append(name)
        back.append(got)
    assert names[0] == names[1] != names[2]
    same(back[1], frame)


def drafted(*frames: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """A draft's name and its rows."""
    import tempfile

    import pyarrow as pa

    with tempfile.TemporaryDirectory() as folder:
        draft = lake_drafts.Draft(Path(folder))
        for frame in frames:
            draft.add(frame)
        name = draft.close()
        path = Path(folder) / "rows.parquet"
        return name, lake_columns.to_frame(pa.concat_tables([lake_drafts.schema_of(path).empty_table(), *lake_drafts.groups(path, rows=3)]))


def test_cells_that_move_between_rows_or_columns_make_another_version() -> None:
    frames = [
        pd.DataFrame(columns)
        for columns in (
            {"a": ["x", "yz"]},
            {"a": ["xy", "z"]},
            {"b": ["x", "yz"]},
            {"a": [None, "xyz"]},
            {"a": ["", "xyz"]},
            {"a": ["x", "yz"], "c": [None, None]},
            {"a": [1, 2]},
            {"a": [1.0, 2.0]},
            {"a": [True, False]},
            {"a": [{"x": 1}, None]},
            {"a": ['{"x":1}', None]},
            {"a": [b"x", b"yz"]},
            {"a": [0.0, 1.0]},
            {"a": [-0.0, 1.0]},
            {"a": [np.nan, 1.0]},
        )
    ]
    frames += [pd.DataFrame({"a": [np.int64([1]), np.int64([2, 3])]}), pd.DataFrame({"a": [np.int64([1, 2]), np.int64([3])]})]
    assert len({drafted(frame)[0] for frame in frames}) == len(frames)
    assert drafted(pd.DataFrame({"a": [1, 2]}, index=[5, 9]))[0] == drafted(pd.DataFrame({"a": [1, 2]}))[0]


# --- frames that disagree


@pytest.mark.parametrize(
    ("one", "two"),
    [([None], [0.5]), ([1], [0.5]), ([None], [{"a": 1}]), ([None], ["x"]), ([None], [7]), ([{"a": 1}], [None]), ([None], [True])],
)
def test_types_that_widen(ws, one: list, two: list) -> None:
    frames = [
        pd.DataFrame({"id": ["a"], "x": pd.Series(one)}),
        pd.DataFrame({"x": pd.Series(two), "id": ["b"]}),
        pd.DataFrame({"id": ["c"], "x": pd.Series(one)}),
    ]
    ops.lake.write("wide", iter(frames))
    back = ops.lake.read("wide")
    assert back.id.tolist() == ["a", "b", "c"]
    assert [None if value is None or value is pd.NA or value != value else value for value in back.x] == [*one, *two, *one]


def test_widening_rewrites_what_is_on_disk_already(ws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_drafts, "GROUP", 2000)
    frames = [docs(20, n * 20).assign(score=None if n < 5 else float(n)) for n in range(10)]
    frames[0].attrs["lineage"] = ({"id": "early"},)
    made = ops.lake.write("w", iter(frames))
    whole = pd.concat([frame.assign(score=frame.score.astype(float)) for frame in frames], ignore_index=True)
    whole.attrs["lineage"] = ({"id": "early"},)
    assert ops.lake.write("w", whole).version == made.version
    same(ops.lake.read("w"), whole)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ({"x": ["a"]}, {"x": [1]}, "one thing in a frame"),
        ({"x": [2**53 + 1]}, {"x": [0.5]}, "no single type"),
        ({"x": ["a"]}, {"x": [{"a": 1}]}, "one thing in a frame"),
        ({"x": [1]}, {"y": [1]}, "different columns"),
        ({"x": [1]}, {"x": [1], "y": [2]}, "different columns"),
        ({"x": [True]}, {"x": [1]}, "one thing in a frame"),
    ],
)
def test_types_that_do_not_fit_are_one_clear_error(ws, one: dict, two: dict, said: str) -> None:
    ops.lake.write("x", docs())
    with pytest.raises(InputError, match=said):
        ops.lake.write("x", iter([pd.DataFrame(one), pd.DataFrame(two)]))
    same(ops.lake.read("x"), docs())
    assert left("x") == []


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"x": ["a", 1]}),
        pd.DataFrame({"x": ["a", b"b"]}),
        pd.DataFrame({"x": [object()]}),
        pd.DataFrame({"x": [{1: 2}]}),
        pd.DataFrame({"x": [{"a": {1, 2}}]}),
        pd.DataFrame({"x": [1 + 2j]}),
        pd.DataFrame({"x": [2**70]}),
        pd.DataFrame({"x": [True, 2]}),
        pd.DataFrame([[1, 2]], columns=["x", "x"]),
        pd.DataFrame([[1, 2]], columns=["x", "X"]),
        pd.DataFrame([[1]]),
        pd.DataFrame(),
        pd.DataFrame({("a", "b"): [1]}),
        pd.DataFrame({"x": pd.period_range("2026", periods=1)}),
        pd.DataFrame({"x": pd.arrays.SparseArray([1])}),
    ],
    ids=range(15),
)
def test_what_cannot_come_back_is_refused(ws, frame: pd.DataFrame) -> None:
    with pytest.raises(InputError):
        ops.lake.write("x", frame)
    assert ops.lake.tables().empty


@pytest.mark.parametrize("given", ["text", 3, {"a": docs()}, [docs(), "x"], [], [{"id": "a"}], None])
def test_what_is_no_table_is_refused(ws, given: object) -> None:
    with pytest.raises(InputError):
        ops.lake.write("x", given)
    assert ops.lake.tables().empty and left("x") == []


def test_nested_deep_and_halves_of_characters(ws) -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="cannot be kept"):
        ops.lake.write("x", pd.DataFrame({"x": [deep]}))
    half = pd.DataFrame({"id": ["a"], "text": pd.Series(["half \ud800"], dtype=object), "metadata": [{"title": "\udfff"}]})
    ops.lake.write("x", half)
    assert ops.lake.read("x").text[0] == "half \ufffd" and ops.lake.read("x").metadata[0] == {"title": "\ufffd"}


# --- attrs


def test_slices_of_one_table_do_not_repeat_its_notes(ws) -> None:
    frame = docs(100)
    frame.attrs = {"lineage": tuple({"id": f"n{n}"} for n in range(2500)), "made": {"by": ["x"]}}
    one = ops.lake.write("a", frame)
    assert ops.lake.write("a", (frame[n : n + 7] for n in range(0, 100, 7))).version == one.version
    back = ops.lake.read("a")
    assert back.attrs == frame.attrs and back.copy().attrs["lineage"] is back.attrs["lineage"]
    assert sum(len(batch.attrs.get("lineage", ())) for batch in ops.lake.batches("a", rows=9)) == 2500
    frame.attrs["made"] = object()
    with pytest.raises(InputError, match="'made'"):
        ops.lake.write("a", frame)


def test_notes_stay_with_their_rows_through_batches(ws) -> None:
    def frames() -> Iterator[pd.DataFrame]:
        for n in range(20):
            frame = docs(5, n * 5)
            frame.attrs["lineage"] = ({"id": f"before {n * 5}"},)
            yield frame
        last = docs(0)
        last.attrs["lineage"] = ({"id": "at the end"},)
        yield last

    first = ops.lake.write("a", frames())
    for rows in (1, 5, 7, 100, 1000):
        assert ops.lake.write("b", ops.lake.batches("a", rows=rows)).version == first.version
    found = list(ops.lake.batches("a", rows=10))
    assert (
        [len(frame) for frame in found] == [10] * 10
        and found[1].attrs["lineage"][0] == {"id": "before 10"}
        and len(found[-1].attrs["lineage"]) == 3
    )


# --- writers that die, disks that fill, several at once

WRITER = """
    import sys, time
    import pandas as pd
    import llmops_nb as ops
    ops.Workspace(sys.argv[1])
    def frames():
        for n in range(10**6):
            yield pd.DataFrame({"id": [f"{sys.argv[2]} {n} {i}" for i in range(2000)], "text": ["x" * 2000] * 2000})
            print(n, flush=True)
    ops.lake.write("books", frames())
"""
PUBLISHER = """
    import sys
    import pandas as pd
    import llmops_nb as ops
    ops.Workspace(sys.argv[1])
    for n in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
        frame = pd.DataFrame({"n": [n] * 1000})
        frame.attrs["lineage"] = ({"n": n},)
        print(ops.lake.write("books", frame).version, flush=True)
"""


def test_a_killed_writer_shows_nothing_and_is_cleaned_up(ws) -> None:
    ops.lake.write("books", docs())
    child = start(WRITER, ws.path, "killed")
    while child.stdout.readline() != "20\n":
        assert child.poll() is None, child.stderr.read()
    assert any(path.stat().st_size for path in (ws.path / "lake/books").glob(".draft-*/rows.parquet"))
    same(ops.lake.read("books"), docs())
    other = docs(3)
    ops.lake.write("books", other)  # beside the living writer, whose draft stays
    assert len(left("books")) == 2
    kill(child)
    same(ops.lake.read("books"), other)
    assert len(ops.lake.versions("books")) == 2 and ops.lake.tables().problem.tolist() == [""]
    ops.lake.write("books", docs())
    assert left("books") == []


@pytest.mark.slow
def test_killed_at_any_moment_the_table_is_whole(ws) -> None:
    rng = random.Random(3)
    ops.lake.write("books", pd.DataFrame({"n": [-1] * 1000}).assign(n=-1))
    for turn in range(8):
        child = start(PUBLISHER, ws.path, turn * 1000, 1000)
        child.stdout.readline()
        time.sleep(rng.random() * 0.3)
        kill(child)
        frame = ops.lake.read("books")
        assert len(frame) == 1000 and frame.n.nunique() == 1 and frame.attrs["lineage"] == ({"n": frame.n[0]},)
        for version in ops.lake.versions("books").version:
            assert len(ops.lake.read(f"books@{version}")) == 1000
    ops.lake.remove("books", keep=1)
    assert left("books") == [] and len(ops.lake.versions("books")) == 1


def test_two_processes_write_one_table(ws) -> None:
    children = [start(PUBLISHER, ws.path, first, 15) for first in (0, 100)]
    seen = set()
    while any(child.poll() is None for child in children):
        if (ws.path / "lake/books/current").exists():
            frame = ops.lake.read("books")
            assert len(frame) == 1000 and frame.n.nunique() == 1
            seen.add(frame.n[0])
    made = {line for child in children for line in finish(child).split()}
    assert len(made) == 30 and set(ops.lake.versions("books").version) == made and left("books") == [] and seen


@pytest.mark.parametrize("many", [4, 400])
def test_a_full_disk_leaves_the_old_table(small_disk, many: int) -> None:
    with ops.Workspace(small_disk("12m") / "w"):
        ops.lake.write("books", docs())
        noise = random.Random(1)
        with pytest.raises(StorageError, match="could not be read or written|cannot be written"):
            ops.lake.write("books", (pd.DataFrame({"text": [noise.randbytes(20_000_000 // many).hex()]}) for _ in range(many)))
        same(ops.lake.read("books"), docs())
        assert left("books") == []
        ops.lake.write("books", docs(5))


def test_an_error_or_interrupt_of_the_callers_frames_comes_through(ws) -> None:
    ops.lake.write("books", docs())
    for error in (KeyboardInterrupt, ZeroDivisionError, FileNotFoundError):

        def frames(error: type[BaseException] = error) -> Iterator[pd.DataFrame]:
            yield docs(5)
            raise error

        with pytest.raises(error):
            ops.lake.write("books", frames())
        same(ops.lake.read("books"), docs())
        assert left("books") == []


def test_a_reader_keeps_its_version(ws) -> None:
    old = ops.lake.write("books", docs(100))
    reader = ops.lake.batches("books", rows=10)
    first = next(reader)
    ops.lake.write("books", docs(5))
    gone = ops.lake.remove(old.spec[:12])
    assert gone.version.tolist() == [old.version]
    same(pd.concat([first, *reader], ignore_index=True), docs(100))
    assert len(ops.lake.read("books")) == 5
    with pytest.raises(NotFound, match="no such version"):
        ops.lake.read(old.spec)


def test_a_table_is_rewritten_from_itself(ws) -> None:
    ops.lake.write("books", docs(100))
    ops.lake.write("books", (frame[frame.id != "d3"] for frame in ops.lake.batches("books", rows=10)))
    assert len(ops.lake.read("books")) == 99


def test_going_back_to_an_earlier_content_is_only_a_pointer(ws) -> None:
    one, two = ops.lake.write("b", docs(1)), ops.lake.write("b", docs(2))
    assert ops.lake.write("b", docs(1)) == one
    table = ops.lake.versions("b")
    assert table.version.tolist() == [one.version, two.version] and table.current.tolist() == [True, False]
    with pytest.raises(InputError):
        ops.lake.remove(one.spec)
    ops.lake.remove("b")
    assert ops.lake.tables().empty
    with pytest.raises(NotFound):
        ops.lake.read("b")


def test_damage_is_noticed_and_mended_by_writing_again(ws) -> None:
    made = ops.lake.write("b", docs(2000))
    path = ws.path / "lake/b" / made.version / "rows.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        ops.lake.read("b")
    path.write_bytes(data[:100])
    with pytest.raises(StorageError):
        ops.lake.read("b")
    ops.lake.write("b", docs(2000))
    same(ops.lake.read("b"), docs(2000))
    (path.parent / "table.json").write_text("{")
    assert "damaged" in ops.lake.tables().problem[0]
    ops.lake.write("b", docs(2000))
    assert ops.lake.tables().problem[0] == ""


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "a.b",
        ".lock",
        "x'; DROP TABLE y; --",
        "a\0b",
        "ü",
        "x" * 81,
        "books@",
        "books@../../x",
        "a@b@c",
        3,
        None,
        "s3://",
        "s3://bucket",
        "file:///",
        "delta://x",
        "delta://../x",
        "/etc/passwd",
        "postgresql://h/db",
        "postgresql://h/db#a.b.c",
        "postgresql://h/db#",
    ],
)
def test_hostile_names(ws, name: object) -> None:
    before = sorted(ws.path.parent.rglob("*"))
    for use in (ops.lake.read, ops.lake.versions, ops.lake.remove, lambda name: ops.lake.write(name, docs())):
        with pytest.raises(OpsError):
            use(name)
    assert sorted(ws.path.parent.rglob("*")) == before


def test_files_of_others_in_the_lake_are_no_tables(ws) -> None:
    (ws.path / "lake/training").mkdir()
    (ws.path / "lake/training/0123456789abcdef.jsonl").write_text("{}\n")
    assert ops.lake.tables().empty
    with pytest.raises(NotFound):
        ops.lake.read("training")
    ops.lake.write("training", docs())
    ops.lake.remove("training")
    assert (ws.path / "lake/training/0123456789abcdef.jsonl").read_text() == "{}\n"


# --- questions


def test_questions_over_tables_frames_and_versions(ws) -> None:
    old = ops.lake.write("books", docs(4))
    ops.lake.write("books", docs(10))
    ops.lake.write("my-table", pd.DataFrame({"id": ["d1"]}))
    assert ops.lake.query("SELECT count(*) AS n FROM Books").n[0] == 10
    assert ops.lake.query(f'SELECT count(*) AS n FROM "{old.spec}"').n[0] == 4
    assert ops.lake.query('SELECT b.id FROM "my-table" m JOIN books b USING (id)').id.tolist() == ["d1"]
    assert ops.lake.query("SELECT (SELECT count(*) FROM books) - (SELECT count(*) FROM before) AS n", before=old.spec).n[0] == 6
    assert ops.lake.query("WITH books AS (SELECT 1 AS x) SELECT x FROM books").x.tolist() == [1]
    got = ops.lake.query(
        "SELECT id, metadata, metadata->'tags' AS tags, metadata->>'title' AS title FROM books "
        "WHERE (metadata->>'n')::INT IS NULL ORDER BY id LIMIT ?",
        parameters=[1],
    )
    assert got.to_dict("records") == [{"id": "d0", "metadata": {"title": "t0", "tags": ["a", 0]}, "tags": ["a", 0], "title": "t0"}]
    assert ops.lake.query(
        "SELECT sum(n) AS s, 1 AS x, 2 AS x FROM f", f=pd.DataFrame({"n": pd.array([2**53 + 1, None], dtype="Int64")})
    ).iloc[0].tolist() == [2**53 + 1, 1, 2]
    same(ops.lake.query("SELECT * FROM books"), docs(10))
    assert ops.lake.query("PIVOT (SELECT id, length(id) AS l FROM books) ON l USING count(*)").shape == (10, 2)
    with pytest.raises(NotFound, match="books, my-table"):
        ops.lake.query("SELECT * FROM bookz")
    for bad in ("SELEC 1", "SELECT nope FROM books", "", 3):
        with pytest.raises(InputError):
            ops.lake.query(bad)


HOSTILE = [
    "SELECT * FROM read_csv('{f}')",
    "SELECT * FROM '{f}'",
    "SELECT * FROM read_text('{f}')",
    "SELECT * FROM read_blob('{f}')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('{f}')",
    "SELECT * FROM read_parquet('{d}/lake/books/*/rows.parquet')",
    "COPY (SELECT 1) TO '{d}/x.csv'",
    "COPY books TO '{d}/x.parquet' (FORMAT parquet, USE_TMP_FILE false)",
    "ATTACH '{d}/x.db'",
    "ATTACH '{d}/records.db' (TYPE sqlite)",
    "EXPORT DATABASE '{d}/x'",
    "IMPORT DATABASE '{d}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SELECT * FROM read_csv('https://127.0.0.1/x')",
    "SELECT getenv('HOME')",
    "SET enable_external_access=true",
    "RESET enable_external_access",
    "SET memory_limit='1TB'",
    "SET log_query_path='{d}/x'",
    "PRAGMA enable_profiling",
    "SET profiling_output='{d}/x'",
    "CALL enable_logging(storage='file', storage_path='{d}/x')",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{d}/x.csv'",
    "SELECT 1; COPY (SELECT 1) TO '{d}/x.csv'",
    "SELECT * FROM secret_frame",
    "SELECT * FROM query('SELECT * FROM read_text(''{f}'')')",
    "SELECT * FROM query_table('{f}')",
    "CREATE TABLE x AS SELECT * FROM read_text('{f}')",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_hostile_question_reaches_nothing(ws, sql: str) -> None:
    secret_frame = pd.DataFrame({"key": ["hunter2"]})  # noqa: F841 - what DuckDB would find by its name if it were let
    ops.lake.write("books", docs())
    secret = ws.path / "secret.txt"
    secret.write_text("hunter2")
    before = {path: path.stat().st_mtime_ns for path in ws.path.rglob("*") if path.is_file()}
    with pytest.raises(OpsError) as caught:
        ops.lake.query(sql.format(f=secret, d=ws.path))
    assert "hunter2" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in ws.path.rglob("*") if path.is_file()} == before


def test_a_question_changes_no_table(ws) -> None:
    ops.lake.write("books", docs())
    for sql in (
        "DELETE FROM books",
        "UPDATE books SET id='x'",
        "INSERT INTO books SELECT * FROM books",
        "CREATE OR REPLACE TABLE books AS SELECT 1",
        "DROP VIEW books",
    ):
        with contextlib.suppress(OpsError):
            ops.lake.query(sql)
        same(ops.lake.read("books"), docs())


def test_a_question_keeps_within_its_memory(ws) -> None:
    with pytest.raises(StorageError, match="more memory"):
        ops.lake.query("SELECT list(range) FROM range(100000000)", memory="50MB")
    with pytest.raises(InputError):
        ops.lake.query("SELECT 1", memory="a lot")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3",
        "SELECT count(*) FROM books a, books b, books c, books d WHERE a.text || b.text || c.text > d.text",
    ],
)
def test_a_question_can_be_interrupted(ws, sql: str) -> None:
    ops.lake.write("books", docs(2000))
    child = start(
        """
        import sys, threading, os, signal, time
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        ops.lake.query("SELECT 1")
        threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        try:
            ops.lake.query(sys.argv[2])
        except KeyboardInterrupt:
            print(time.monotonic() - began < 20, len(ops.lake.read("books")))
    """,
        ws.path,
        sql,
    )
    assert finish(child).split() == ["True", "2000"]


# --- size


@pytest.mark.slow
def test_a_value_of_200_megabytes(ws) -> None:
    huge = pd.DataFrame({"id": ["a", "b"], "text": ["é" * 100_000_000, "x"]})
    ops.lake.write("huge", huge)
    assert ops.lake.query("SELECT id, length(text) AS n FROM huge ORDER BY id").n.tolist() == [100_000_000, 1]
    assert ops.lake.read("huge").text[0] == huge.text[0]


@pytest.mark.slow
def test_a_table_larger_than_the_memory_allowed(ws) -> None:
    child = start(
        """
        import random, re, sys
        import pandas as pd
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        rng = random.Random(1)
        def frames():
            for n in range(400):
                texts = [rng.randbytes(2000).hex() for _ in range(500)]
                frame = pd.DataFrame({"id": range(n * 500, n * 500 + 500), "text": texts, "metadata": [{"n": n}] * 500})
                note = {"step": "clean", "action": "dropped", "reason": "The document is empty."}
                frame.attrs["lineage"] = tuple({"id": f"dropped {n} {i}"} | note for i in range(500))
                yield frame
        def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
        ops.lake.write("s", [next(frames())]); ops.lake.query("SELECT 1"); start = peak()
        table = ops.lake.write("big", frames()); wrote = peak() - start
        rows = sum(len(frame) for frame in ops.lake.batches("big", rows=1000)); read = peak() - start
        again = ops.lake.write("copy", ops.lake.batches("big", rows=777)); copied = peak() - start
        found = ops.lake.query("SELECT count(*) AS n FROM big WHERE text LIKE '%abcdef%'").n[0]
        print(table.rows, rows, again.version == table.version, found > 0, wrote, read, copied, peak() - start)
    """,
        ws.path,
    )
    rows, read, equal, found, *peaks = finish(child).split()
    assert (rows, read, equal, found) == ("200000", "200000", "True", "True")
    assert max(map(int, peaks)) < 450, peaks  # MB, for 800 MB of text


# --- absent packages


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pyarrow", "lake", lambda: ops.lake.write("x", docs())),
        ("duckdb", "lake", lambda: ops.lake.query("SELECT 1")),
        ("deltalake", "delta", lambda: ops.lake.read("delta:///nowhere/t")),
        ("psycopg", "postgres", lambda: ops.lake.read("postgresql://nowhere/db#t")),
        ("ibis", "warehouse", lambda: ops.lake.read("mysql://nowhere/db#t")),
    ],
)
def test_an_absent_package_names_its_extra(ws, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, use) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"llmops_nb\[{extra}\]"):
        use()


# --- addresses keep their secrets


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cr3t-w0rd@127.0.0.1:9/db#t",
        "postgresql://ann:s3cr3t%2Dw0rd@127.0.0.1:9/db#t",
        "postgresql://127.0.0.1:9/db?user=ann&password=s3cr3t-w0rd#t",
        "postgresql://ann:s3cr3t-w0rd@no such host/db#t",
        "postgresql://ann:pa/s3cr3t-w0rd@127.0.0.1/db#t",
        "postgresql://ann:s3cr3t-w0rd@[::bad/db#t",
        "mysql://ann:s3cr3t-w0rd@127.0.0.1:9/db#t",
        "snowflake://ann:s3cr3t-w0rd@acc/db#t",
        "databricks://token:s3cr3t-w0rd@host/x#t",
        "nonsense://ann:s3cr3t-w0rd@host/x#t",
        "s3://AKIA:s3cr3t-w0rd@/x",
    ],
)
def test_no_error_shows_a_secret(ws, url: str) -> None:
    import traceback

    for use in (ops.lake.read, lambda url: ops.lake.write(url, docs()), lambda url: ops.lake.query("SELECT 1", at=url), ops.lake.versions):
        with pytest.raises(OpsError) as caught:
            use(url)
        shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
        assert "s3cr3t" not in shown and "w0rd" not in shown
    assert "w0rd" not in lake_remote.hidden(url)


# --- a bucket


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("moto.server")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        patch.setenv(name, value)
    for _ in range(150):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            break
        except OSError:
            time.sleep(0.2)
    boto3.client("s3").create_bucket(Bucket="team")
    yield "s3://team/lake"
    patch.undo()
    server.terminate()
    server.wait(10)


def test_a_table_in_a_bucket(ws, bucket: str) -> None:
    name = f"{bucket}/books"
    with pytest.raises(NotFound):
        ops.lake.read(name)
    frame = docs(100)
    frame.attrs["lineage"] = ({"id": "gone"},)
    one = ops.lake.write(name, (frame[n : n + 9] for n in range(0, 100, 9)))
    assert ops.lake.write(name, frame) == one
    assert ops.lake.write("local", frame).version == one.version
    two = ops.lake.write(name, docs(3))
    same(ops.lake.read(f"{name}@{one.version[:5]}"), frame)
    assert ops.lake.read(f"{name}@{one.version}").attrs == frame.attrs
    assert [len(batch) for batch in ops.lake.batches(one.spec, rows=60)] == [60, 40]
    assert ops.lake.query("SELECT count(*) AS n FROM there JOIN local USING (id)", there=name).n[0] == 3
    assert ops.lake.versions(name).current.tolist() == [False, True]
    ops.lake.remove(one.spec)
    assert ops.lake.versions(name).version.tolist() == [two.version]
    ops.lake.remove(name)
    with pytest.raises(NotFound):
        ops.lake.read(name)
    with pytest.raises(StorageError):
        ops.lake.write("s3://no-such-bucket-here/t", docs())


def test_an_upload_that_dies_is_not_read_and_is_done_again(ws, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, old = f"{bucket}/dying", docs(3)
    ops.lake.write(name, old)
    send = lake_remote.Bucket._send

    def torn(self, path: Path, to: str) -> None:
        with self.system.open_output_stream(f"{self.root}/{to}") as file:
            file.write(path.read_bytes()[:100])
        raise OSError("the network is gone")

    monkeypatch.setattr(lake_remote.Bucket, "_send", torn)
    with pytest.raises(StorageError, match="network is gone"):
        ops.lake.write(name, docs(50))
    same(ops.lake.read(name), old)
    assert len(ops.lake.versions(name)) == 1
    monkeypatch.setattr(lake_remote.Bucket, "_send", send)
    ops.lake.write(name, docs(50))
    same(ops.lake.read(name), docs(50))


# --- Delta Lake


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_delta_table(ws, tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    deltalake = pytest.importorskip("deltalake")
    name = f"delta://{tmp_path}/books" if where == "disk" else f"delta+{request.getfixturevalue('bucket')}/delta"
    with pytest.raises(NotFound):
        ops.lake.read(name)
    one = ops.lake.write(name, docs(100))
    assert ops.lake.write(name, (docs(10, n) for n in range(0, 100, 10))).version == one.version == "0"
    two = ops.lake.write(name, docs(3).assign(extra=1))
    assert (one.rows, two.rows, two.version) == (100, 3, "1") and ops.lake.versions(name).current.tolist() == [False, True]
    same(ops.lake.read(name), docs(3).assign(extra=1))
    same(ops.lake.read(f"{name}@0"), docs(100))
    assert ops.lake.query("SELECT count(*) AS n, max(metadata->>'n') AS top FROM t", t=f"{name}@0").iloc[0].tolist() == [100, "98"]
    if where == "disk":
        assert len(deltalake.DeltaTable(str(tmp_path / "books")).to_pandas()) == 3  # any Delta reader sees it
    for bad in (f"{name}@abc", f"{name}@77"):
        with pytest.raises(OpsError):
            ops.lake.read(bad)
    with pytest.raises(InputError):
        ops.lake.remove(name)


# --- PostgreSQL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pgserver = pytest.importorskip("pgserver")
    running = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield running.get_uri()
    running.cleanup()


def psql(server: str, sql: str) -> list[tuple]:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


PLAIN = ["text", "dict", "messages", "mixed list", "int", "float", "bool", "bytes", "date", "clock", "money", "nothing", 'odd "name"; --']


def test_a_table_in_postgresql(ws, server: str) -> None:
    name = f"{server}#books"
    with pytest.raises(NotFound):
        ops.lake.read(name)
    frame = EVERYTHING[PLAIN]
    ops.lake.write(name, (frame[n : n + 1] for n in range(3)))
    back = ops.lake.read(name)
    same(back.drop(columns="nothing"), frame.drop(columns="nothing"))
    assert back.nothing.isna().all()
    ops.lake.write(f"{server}#more", EVERYTHING[["zone", "vector", "nullable", "kind", "big"]])
    more = ops.lake.read(f"{server}#more")
    assert more.zone.dropna().tolist() == EVERYTHING.zone.dropna().tolist() and more.nullable.tolist() == EVERYTHING.nullable.tolist()
    assert more.vector.map(list).tolist() == EVERYTHING.vector.map(list).tolist() and more.big.map(int).tolist() == EVERYTHING.big.tolist()
    text = pd.DataFrame(
        {"text": ['tab\t, "quote" and \\ and \' and \n line\r\n', "\\N", "", "NULL", None, "\\."], "odd": ["é", "😀", " ", ",", ";", '""']}
    )
    ops.lake.write(name, text)
    same(ops.lake.read(name), text)
    same(ops.lake.read(name, columns=["odd"]), text[["odd"]])
    assert [len(batch) for batch in ops.lake.batches(name, rows=4)] == [4, 2]
    assert ops.lake.query("SELECT count(*) AS n FROM books WHERE odd = %s", parameters=["😀"], at=server).n[0] == 1
    assert ops.lake.query("SELECT count(*) AS n FROM t", t=name).n[0] == 6
    ops.lake.write(name, text[:0])
    assert list(ops.lake.read(name)) == ["text", "odd"]
    with pytest.raises(InputError):
        ops.lake.read(name, columns=["nope"])
    with pytest.raises(InputError):
        ops.lake.versions(name)


def test_postgresql_is_replaced_whole_or_not_at_all(ws, server: str) -> None:
    name, before = f"{server}#whole", docs(10)
    ops.lake.write(name, before)
    for bad in (
        pd.DataFrame({"text": ["fine", "nul \0 byte"]}),
        pd.DataFrame({"when": pd.to_datetime([1], unit="ns")}),
        pd.DataFrame({"x" * 64: [1]}),
    ):
        with pytest.raises(OpsError):
            ops.lake.write(name, bad)
        same(ops.lake.read(name), before)
    reader = ops.lake.batches(name, rows=2)
    first = next(reader)
    rest = list(reader)
    ops.lake.write(name, docs(3))
    assert sum(map(len, [first, *rest])) == 10 and len(ops.lake.read(name)) == 3
    assert psql(server, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'llmops_draft%'") == [(0,)]
    psql(server, "CREATE VIEW leaning AS SELECT id FROM whole")
    with pytest.raises(StorageError, match="leaning|depend"):
        ops.lake.write(name, docs(1))
    assert len(ops.lake.read(name)) == 3
    psql(server, "DROP VIEW leaning")


def test_a_killed_writer_leaves_nothing_in_postgresql(ws, server: str) -> None:
    ops.lake.write(f"{server}#killed", docs(10))
    child = start(
        """
        import sys, time
        import llmops_nb as ops
        from llmops_nb.storage import lake_databases
        import pandas as pd
        real = lake_databases._csv
        def slow(piece):
            print("sending", flush=True)
            time.sleep(0.2)
            return real(piece)
        lake_databases._csv = slow
        ops.lake.write(sys.argv[1], pd.DataFrame({"n": range(200_000)}))
    """,
        f"{server}#killed",
    )
    for _ in range(5):
        assert child.stdout.readline() == "sending\n"
    kill(child)
    for _ in range(50):
        if not psql(server, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND pid <> pg_backend_pid()"):
            break
        time.sleep(0.2)
    same(ops.lake.read(f"{server}#killed"), docs(10))
    assert psql(server, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'llmops_draft%'") == [(0,)]


def test_two_processes_replace_one_table_in_postgresql(ws, server: str) -> None:
    code = """
        import sys
        import pandas as pd
        import llmops_nb as ops
        for n in range(15):
            ops.lake.write(sys.argv[1], pd.DataFrame({"n": [int(sys.argv[2])] * 500}))
    """
    children = [start(code, f"{server}#both", n) for n in (1, 2)]
    for child in children:
        finish(child)
    frame = ops.lake.read(f"{server}#both")
    assert len(frame) == 500 and frame.n.nunique() == 1


def test_questions_to_postgresql_only_read(ws, server: str) -> None:
    ops.lake.write(f"{server}#kept", docs(10))
    assert ops.lake.query("SELECT metadata FROM kept WHERE id = 'd0'", at=server).metadata[0] == {"title": "t0", "tags": ["a", 0]}
    for sql in ("DELETE FROM kept", "DROP TABLE kept", "SELECT nope FROM kept", "SELEC", "COMMIT; DROP TABLE kept"):
        with pytest.raises(OpsError):
            ops.lake.query(sql, at=server)
    assert len(ops.lake.read(f"{server}#kept")) == 10
    ops.lake.write(f'{server}#x"; DROP TABLE kept; --', docs(1))
    assert len(ops.lake.read(f"{server}#kept")) == 10
    with pytest.raises(InputError, match="its own tables"):
        ops.lake.query("SELECT 1", at=server, t=docs())


# --- through ibis


def test_a_warehouse_through_ibis(ws, server: str, tmp_path: Path) -> None:
    pytest.importorskip("ibis")
    name = f"sqlite://{tmp_path}/house.db#books"
    with pytest.raises(NotFound):
        ops.lake.read(name)
    for count in (10, 25_000):
        ops.lake.write(name, docs(count))
    assert len(ops.lake.read(name)) == 25_000 and [len(batch) for batch in ops.lake.batches(name, rows=20_000, columns=["id"])] == [
        20_000,
        5_000,
    ]
    assert json.loads(ops.lake.read(name).metadata[0]) == {"title": "t0", "tags": ["a", 0]}
    assert ops.lake.query("SELECT count(*) AS n FROM books", at=name.partition("#")[0]).n[0] == 25_000
    assert ops.lake.query("SELECT count(*) AS n FROM t JOIN f USING (id)", t=name, f=docs(3)).n[0] == 3
    with pytest.raises(OpsError):
        ops.lake.query("SELECT nope FROM books", at=name)
    pg = Warehouse(f"{server}#through_ibis")  # the same code against a server
    with pg.draft() as path:
        draft = lake_drafts.Draft(path)
        draft.add(docs(10))
        pg.publish(draft, draft.close())
    assert len(ops.lake.read(f"{server}#through_ibis")) == 10 and sum(piece.num_rows for piece in pg.open(None).pieces) == 10
    assert pg.query("SELECT count(*) AS n FROM through_ibis").to_pylist() == [{"n": 10}]
    assert isinstance(Postgres(server), Postgres) and "llmops_draft" not in str(psql(server, "SELECT tablename FROM pg_tables"))
