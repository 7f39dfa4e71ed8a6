"One suite that every vector store must pass."

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from llmops_nb.errors import InputError, StorageError
from llmops_nb.storage.vectors import ChromaStore, LocalStore, Row, VectorCache, open_files

STORES = {"local": LocalStore, "chroma": ChromaStore}


@pytest.fixture(params=STORES)
def kind(request):
    return STORES[request.param]


@pytest.fixture
def store(kind, tmp_path):
    with kind(tmp_path / "store") as opened:
        yield opened


def put(store, ids, vectors=None, metadatas=None, texts=None, hashes=None):
    vectors = np.eye(len(ids), 8) if vectors is None else np.asarray(vectors, dtype=np.float32)
    store.upsert(ids, vectors, texts or [f"text of {i}" for i in ids], metadatas or [{}] * len(ids), hashes or [f"h-{i}" for i in ids])


def random_rows(n, dim=16, seed=0):
    return [f"id{i}" for i in range(n)], np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def test_an_empty_store_answers(store):
    assert store.count() == 0 and store.hashes() == {} and store.get(["x"]) == [] and store.get([]) == [] and store.matching(None) == []
    assert store.nearest(np.ones(8), k=3) == []
    store.upsert([], np.zeros((0, 8)), [], [], [])
    store.delete(["x"])
    store.delete([])
    assert store.count() == 0


def test_one_row(store):
    put(store, ["only"], [[3, 4]])
    assert store.count() == 1 and store.hashes() == {"only": "h-only"}
    [(name, score)] = store.nearest(np.array([6, 8]), k=5)
    assert name == "only" and score == pytest.approx(1, abs=1e-5)


def test_nearest_is_exact_cosine_order(store):
    ids, vectors = random_rows(500)
    put(store, ids, vectors)
    query = np.random.default_rng(9).standard_normal(16)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    found = store.nearest(query, k=10)
    assert [name for name, _ in found] == [ids[i] for i in np.argsort(-cosine)[:10]]
    assert [score for _, score in found] == pytest.approx(sorted(cosine)[::-1][:10], abs=1e-5)
    assert len(store.nearest(query, k=900)) == 500


def test_a_vector_of_zeros_is_similar_to_nothing(store):
    put(store, ["zero", "one"], [[0, 0], [1, 0]])
    assert dict(store.nearest(np.array([1, 0]), k=2)) == pytest.approx({"one": 1, "zero": 0}, abs=1e-5)


def test_upsert_replaces_everything_of_a_row(store):
    put(store, ["a", "b"], [[1, 0], [0, 1]], [{"v": 1, "old": True}, {"v": 1}])
    put(store, ["a"], [[0, -1]], [{"v": 2}], texts=["new"], hashes=["h2"])
    assert store.count() == 2 and store.get(["a"]) == [Row("a", "new", {"v": 2}, "h2")] and store.hashes() == {"a": "h2", "b": "h-b"}
    assert store.nearest(np.array([0, -1]), k=1)[0][0] == "a"
    assert store.matching({"old": True}) == []


def test_delete(store):
    put(store, ["a", "b", "c"])
    store.delete(["b", "nobody"])
    assert sorted(store.hashes()) == ["a", "c"] and "b" not in [name for name, _ in store.nearest(np.eye(8)[1], k=3)]


def test_get_keeps_the_order_and_leaves_out_unknown_ids(store):
    put(store, ["a", "b", "c"])
    assert [row.id for row in store.get(["c", "x", "a"])] == ["c", "a"]


def test_a_wrong_dimension_is_refused_and_nothing_written(store):
    put(store, ["a"], [[1, 0, 0]])
    for wrong in (np.ones((1, 4)), np.ones(4), np.ones((1, 0))):
        with pytest.raises(InputError):
            store.upsert(["b"], wrong, ["t"], [{}], ["h"])
    with pytest.raises(InputError, match="wrong shape"):
        store.nearest(np.ones(4), k=1)
    assert store.count() == 1


@pytest.mark.parametrize("bad", [
    {"ids": ["a", "a"]}, {"ids": ["a", ""]}, {"ids": ["a", 3]}, {"vectors": np.array([[1, np.nan], [0, 1]])}, {"vectors": np.ones((3, 2))},
    {"texts": ["one"]}, {"metadatas": [{}]}, {"hashes": []},
])  # fmt: skip
def test_bad_rows_are_refused_and_nothing_written(store, bad):
    rows = {"ids": ["a", "b"], "vectors": np.eye(2), "texts": ["x", "y"], "metadatas": [{}, {}], "hashes": ["1", "2"], **bad}
    with pytest.raises(InputError):
        store.upsert(**rows)
    assert store.count() == 0


@pytest.mark.parametrize("metadata", [
    {}, {"a": None}, {"a": [1, 2]}, {"a": []}, {"a": {"b": {"c": [1, {"d": None}]}}}, {"_hash": "mine", "_metadata": 1},
    {"": 1},
    {"chroma:document": "x"}, {"n": 2**70}, {"n": -(2**63)}, {"f": 1.5, "i": 1, "t": True, "s": ""},
    {"ключ": "значение", "emoji": "🙂", 'q"uote': "a\nb"},
    {"$and": [1]}, {"#x": 1}, {"a.b": 1}, {"nul": "a\x00b"},
])  # fmt: skip
def test_metadata_comes_back_as_it_went_in(store, metadata):
    put(store, ["a"], metadatas=[metadata])
    [row] = store.get(["a"])
    assert row.metadata == metadata and [type(v) for v in row.metadata.values()] == [type(row.metadata[k]) for k in row.metadata]
    assert json.dumps(row.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)


def test_huge_metadata_and_text(store):
    metadata = {"long": "x" * 5_000_000, **{f"key{i}": i for i in range(2000)}}
    put(store, ["big", "small"], metadatas=[metadata, {"key1": 1}], texts=["y" * 5_000_000, "z"])
    assert store.get(["big"])[0].metadata == metadata and len(store.get(["big"])[0].text) == 5_000_000
    assert sorted(store.matching({"key1": 1})) == ["big", "small"]


def test_text_of_every_kind(store):
    texts = ["", "  \n", "日本語 العربية 🙂", "a\x00b", "'; DROP TABLE rows; --", "</td><script>"]
    put(store, [f"t{i}" for i in range(6)], texts=texts)
    assert [row.text for row in store.get([f"t{i}" for i in range(6)])] == texts


FILTERS = [
    ({"source": "a"}, {"r0", "r2"}), ({"source": "nobody"}, set()), ({"year": 2024}, {"r1"}), ({"year": 2024.0}, {"r1"}),
    ({"flag": True}, {"r0"}), ({"year": True}, set()), ({"flag": 1}, set()), ({"year": {"$gt": 2023}}, {"r1", "r2"}),
    ({"year": {"$gte": 2024, "$lt": 2025}}, {"r1"}), ({"year": {"$lte": 2023}}, {"r0"}), ({"source": "a", "year": {"$gt": 2023}}, {"r2"}),
    ({"source": {"$in": ["b", "c"]}}, {"r1", "r3"}),
    ({"source": {"$nin": ["a"]}}, {"r1", "r3", "r4"}), ({"source": {"$ne": "a"}}, {"r1", "r3", "r4"}), ({"score": {"$gt": 0.25}}, {"r3"}),
    (None, {"r0", "r1", "r2", "r3", "r4"}), ({}, {"r0", "r1", "r2", "r3", "r4"}),
]  # fmt: skip


@pytest.mark.parametrize(("where", "expected"), FILTERS)
def test_filters_agree_everywhere(store, where, expected):
    put(store, [f"r{i}" for i in range(5)], metadatas=[
        {"source": "a", "year": 2023, "flag": True}, {"source": "b", "year": 2024, "flag": False}, {"source": "a", "year": 2025},
        {"source": "c", "score": 0.5}, {}])  # fmt: skip
    assert set(store.matching(where)) == expected
    found = [name for name, _ in store.nearest(np.ones(8), k=5, where=where)]
    assert set(found) == expected and len(found) == len(expected)
    assert len(store.nearest(np.ones(8), k=2, where=where)) == min(2, len(expected))


@pytest.mark.parametrize("where", [
    "source", {"a": {"$near": 1}}, {"a": None}, {"a": [1]}, {"a": {"$gt": "x"}}, {"a": {"$in": []}}, {"a": {"$in": [1, "x"]}},
    {"a": {"$gt": True}},
])  # fmt: skip
def test_a_bad_filter_is_refused(store, where):
    put(store, ["a"])
    for ask in (lambda: store.matching(where), lambda: store.nearest(np.ones(8), 1, where)):
        with pytest.raises(InputError):
            ask()


def test_more_rows_than_one_batch(store):
    ids, vectors = random_rows(6000, dim=4)
    put(store, ids, vectors)
    assert store.count() == 6000 and len(store.hashes()) == 6000
    store.delete(ids[:5800])
    assert sorted(store.hashes()) == sorted(ids[5800:])


def test_it_is_all_there_after_reopening(kind, tmp_path):
    ids, vectors = random_rows(1200)
    with kind(tmp_path / "s") as store:
        put(store, ids, vectors, [{"n": i} for i in range(1200)])
        store.delete(ids[:5])
        before = store.nearest(vectors[7], k=5)
    with kind(tmp_path / "s") as store:
        assert store.count() == 1195 and dict(store.nearest(vectors[7], k=5)) == pytest.approx(dict(before))
        assert store.get(["id9"])[0].metadata == {"n": 9}


def test_closing_frees_the_folder(kind, tmp_path):
    store = kind(tmp_path / "s")
    put(store, *random_rows(1500))
    store.nearest(np.ones(16), k=3)
    store.close()
    store.close()
    assert open_files(tmp_path) == []
    shutil.rmtree(tmp_path / "s")
    with kind(tmp_path / "s") as store:
        assert store.count() == 0


def test_a_second_handle_sees_what_the_first_wrote(kind, tmp_path):
    with kind(tmp_path / "s") as first, kind(tmp_path / "s") as second:
        put(first, ["a"])
        assert second.nearest(np.eye(8)[0], k=1)[0][0] == "a" and second.count() == 1
        put(first, ["b"], [np.eye(8)[3]])
        assert second.nearest(np.eye(8)[3], k=1)[0][0] == "b"


def test_closing_one_handle_leaves_the_other(kind, tmp_path):
    first, second = kind(tmp_path / "s"), kind(tmp_path / "s")
    put(first, ["a"])
    first.close()
    assert second.count() == 1 and second.nearest(np.ones(8), k=1)
    second.close()
    assert open_files(tmp_path) == []


def test_a_copy_is_complete_while_others_read(kind, tmp_path):
    ids, vectors = random_rows(1500)
    script = f"""if True:
        import sys, numpy as np
        from llmops_nb.storage.vectors import {kind.__name__}
        print("ready", flush=True)
        found = 0
        for _ in range(30):
            with {kind.__name__}(sys.argv[1]) as store:
                found += len(store.nearest(np.ones(16), 3))
        print(found)"""
    with kind(tmp_path / "s") as store:
        put(store, ids, vectors)
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True) as reader:
            reader.stdout.readline()
            for number in range(5):
                (tmp_path / f"copy{number}").mkdir()
                store.copy_to(tmp_path / f"copy{number}")
            assert reader.communicate()[0].strip() == "90"
        expected = store.nearest(vectors[3], k=5)
    for number in range(5):
        with kind(tmp_path / f"copy{number}") as copy:
            assert copy.count() == 1500 and dict(copy.nearest(vectors[3], k=5)) == pytest.approx(dict(expected))
            put(copy, ["new"], [vectors[0]])
    with kind(tmp_path / "s") as store:
        assert store.count() == 1500


def test_a_file_that_is_no_database(kind, tmp_path):
    for name in ("rows.db", "chroma.sqlite3"):
        (tmp_path / name).write_bytes(b"this is not a database, " * 100)
    with pytest.raises(StorageError):
        kind(tmp_path)


def test_cache_keeps_vectors_by_key(tmp_path):
    with VectorCache(tmp_path / "a" / "c.db") as cache:
        assert cache.missing(["x", "y", "x"]) == ["x", "y"]
        cache.put([f"k{i}" for i in range(1200)], np.arange(2400, dtype=np.float32).reshape(1200, 2))
        assert cache.missing(["k1", "z"]) == ["z"] and cache.get(["k3", "k0"]).tolist() == [[6, 7], [0, 1]] and cache.get([]).size == 0
        with pytest.raises(InputError, match="wrong shape"):
            cache.put(["z"], np.ones((1, 3)))
