"What a notebook cannot show about the index: other processes, kills, full disks, and each of Chroma's traps."

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmops_nb import index as stage
from llmops_nb.errors import InputError, NotFound, OpsError, StorageError
from llmops_nb.index import Index, build
from llmops_nb.storage.vectors import open_files
from llmops_nb.storage.versions import Versions

XQUAD = Path(__file__).parents[1] / "../shared/data/rag/xquad.en.json"
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda omicron sigma omega".split()
calls: list[int] = []  # texts in each call of the embedder below


def toy(texts):
    calls.append(len(texts))
    return np.array([[text.count(word) + 0.01 * (len(text) % 7 + 1) for word in WORDS] for text in texts])


class Slow:
    "The same vectors as `toy`, a tenth of a second a batch, noting how many texts were embedded."

    name = "function:toy"

    def __init__(self, log):
        self.fingerprint, self.log = stage.embedders.embedder(toy).fingerprint, log

    def embed(self, texts):
        time.sleep(0.1)
        with open(self.log, "a") as log:
            log.write(f"{len(texts)} ")
        return toy(texts)

    def embed_query(self, text):
        return toy([text])[0]


@pytest.fixture(autouse=True)
def _fresh():
    calls.clear()


@pytest.fixture(params=["chroma", "local"])
def store(request):
    return request.param


def chunks(n, start=0, mark=""):
    rng = random.Random(0)
    texts = [f"{mark}number{i} " + " ".join(rng.choices(WORDS, k=12)) for i in range(start, start + n)]
    rows = [(f"doc{i // 4}#{i % 4}", text, f"doc{i // 4}") for i, text in enumerate(texts, start)]
    return pd.DataFrame(rows, columns=["id", "text", "doc_id"])


def make(path, frame, **arguments):
    return build(frame, workspace=path, **{"embedder": toy, **arguments})


def holds(index, frame):
    "Exactly these chunks, in the store and among the words, each found by its own text."
    with index._reading() as reader:
        assert sorted(reader.store.hashes()) == sorted(frame["id"]) == sorted(reader.words.ids)
        assert reader.store.count() == len(frame) == len(index)
    for _, row in frame.iloc[:: max(1, len(frame) // 20)].iterrows():
        best = index.search(row.text, k=3, mode="lexical")
        assert best["id"][0] == row.id and best["text"][0] == row.text
        assert row.id in index.search(row.text, k=len(frame), mode="dense")["id"].tolist()


def python(script, *arguments, **kwargs):
    "A child process with this module's embedder, its script indented freely."
    head = f"import sys, time\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_index import *\n"
    return subprocess.Popen([sys.executable, "-c", head + textwrap.dedent(script), *map(str, arguments)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


# Chroma's traps, each gone


def test_a_second_handle_in_this_kernel_sees_new_documents_at_once(tmp_path, store):
    first = make(tmp_path, chunks(40), store=store)
    second = Index(first.path)
    assert len(second.search("alpha", k=99, mode="lexical")) and len(second) == 40
    make(tmp_path, chunks(41), store=store)
    for handle in (first, second):
        assert handle.search("number40", k=1, mode="lexical")["id"].tolist() == ["doc10#0"] and len(handle) == 41
    second.close()


def test_another_process_reads_while_we_build_and_after(tmp_path, store):
    make(tmp_path, chunks(60), store=store)
    reader = python("""
        kb, sizes = Index(Path(sys.argv[1]) / "indexes/kb", embedder=stage.embedders.embedder(toy)), set()
        print("ready", flush=True)
        while 160 not in sizes:
            found = kb.search("alpha beta", k=500, mode="dense")
            sizes.add(len(found))
            assert found["id"].is_unique and (kb.search("number7 ", k=1, mode="lexical")["text"][0].split()[0] == "number7")
        print(sorted(sizes))
        """, tmp_path)
    assert reader.stdout.readline() == "ready\n"
    for size in (80, 100, 120, 140, 160):
        make(tmp_path, chunks(size), store=store)
    out, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert set(json.loads(out)) <= {60, 80, 100, 120, 140, 160}


def test_two_processes_build_the_same_index_at_once(tmp_path, store):
    builders = [python(f"""
        print("ready", flush=True); sys.stdin.readline()
        make(sys.argv[1], chunks({size}), store={store!r})
        """, tmp_path) for size in (50, 70)]
    for builder in builders:
        builder.stdout.readline()
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    for builder in builders:
        _, errors = builder.communicate(timeout=120)
        assert builder.returncode == 0, errors
    index = make(tmp_path, chunks(70), store=store)
    holds(index, chunks(70))
    assert sorted(path.name for path in index.path.iterdir() if path.name.startswith("v")) == [index.path.joinpath("current").read_text()]


def test_threads_of_one_process_build_and_search_at_once(tmp_path, store):
    index, failures = make(tmp_path, chunks(30), store=store), []

    def search():
        try:
            for _ in range(40):
                assert len(index.search("alpha", k=100, mode="dense")) in (30, 31, 32, 33, 34)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(6)]
    builders = [threading.Thread(target=make, args=(tmp_path, chunks(n)), kwargs={"store": store}) for n in (31, 32, 33, 34)]
    for thread in threads + builders:
        thread.start()
    for thread in threads + builders:
        thread.join()
    assert not failures and len(index) in (31, 32, 33, 34)
    index.close()
    assert open_files(tmp_path) == []


def test_closing_releases_files_and_the_next_search_opens_them(tmp_path, store):
    with make(tmp_path, chunks(20), store=store) as index:
        index.search("alpha")
        assert open_files(tmp_path)
    assert open_files(tmp_path) == []
    assert len(index.search("alpha")) == 5
    index.close()
    index.close()
    shutil.rmtree(tmp_path / "indexes")
    with pytest.raises(NotFound):
        index.search("alpha")


def test_running_again_neither_repeats_nor_embeds_nor_doubles(tmp_path, store):
    index = make(tmp_path, chunks(50), store=store)
    before, fingerprint = sum(calls), index.fingerprint
    for again in (chunks(50), chunks(50).sample(frac=1, random_state=1)):
        assert make(tmp_path, again, store=store) is index
    assert sum(calls) == before == 50 and index.fingerprint == fingerprint and (index.path / "current").read_text() == "v1"
    holds(index, chunks(50))


# Only what changed


def test_only_changed_texts_are_embedded(tmp_path, store):
    first = chunks(50)
    index = make(tmp_path, first, store=store)
    calls.clear()
    new = pd.DataFrame([("doc0#new", "a text nobody has seen, alpha", "doc0")], columns=first.columns)
    moved = pd.concat([new, first.assign(id=first["id"] + "-moved")])
    make(tmp_path, moved, store=store)
    assert calls == [1] and index.manifest["changed"] == 101
    holds(index, moved)
    calls.clear()
    labelled = moved.assign(topic="greek")
    make(tmp_path, labelled, store=store)
    assert calls == [] and len(index.search("alpha", k=99, mode="dense", where={"topic": "greek"})) == 51
    calls.clear()
    make(tmp_path, moved.iloc[:10], store=store)
    assert calls == [] and index.manifest["changed"] == 41 + 10
    holds(index, moved.iloc[:10])


def test_a_second_index_and_another_store_use_the_same_vectors(tmp_path):
    make(tmp_path, chunks(20), store="local")
    calls.clear()
    other, moved = make(tmp_path, chunks(20), name="other", store="local"), make(tmp_path, chunks(20), store="chroma")
    assert calls == [] and moved.manifest["store"] == "chroma"
    holds(other, chunks(20))
    holds(moved, chunks(20))


def test_another_embedder_is_refused_with_the_way_out(tmp_path, store):
    index = make(tmp_path, chunks(20), store=store)
    with pytest.raises(InputError, match="rebuild=True"):
        make(tmp_path, chunks(20), store=store, embedder=lambda texts: np.ones((len(texts), 3)))
    with pytest.raises(InputError, match="rebuild=True"):
        make(tmp_path, chunks(21), store=store, embedder="lexical")
    holds(index, chunks(20))
    make(tmp_path, chunks(21), store=store, embedder="lexical", rebuild=True)
    assert index.embedder == "lexical" and len(index) == 21
    with pytest.raises(InputError, match="allowed: lexical"):
        index.search("alpha", mode="dense")


def test_a_function_must_be_given_to_open_in_another_process(tmp_path):
    make(tmp_path, chunks(8), store="local").close()
    stage._handles.clear()
    index = stage.open("kb", workspace=tmp_path)
    assert len(index.search("alpha", mode="lexical"))
    with pytest.raises(InputError, match="embedder=my_function"):
        index.search("alpha")
    assert len(stage.open("kb", workspace=tmp_path, embedder=toy).search("alpha"))
    with pytest.raises(InputError, match="was built with"):
        stage.open("kb", workspace=tmp_path, embedder=lambda texts: toy(texts))


# Faults


@pytest.mark.parametrize("moment", [0.0, 0.8, 1.6, 3.0])
def test_a_killed_build_continues(tmp_path, store, moment):
    make(tmp_path, chunks(40), store=store).close()
    builder = python(f"""
        import bm25s, tqdm, {"chromadb" if store == "chroma" else "sqlite3"}
        print("ready", flush=True)
        make(sys.argv[1], chunks(3000), store={store!r}, embedder=Slow(Path(sys.argv[1]) / "embedded"))
        """, tmp_path)
    assert builder.stdout.readline() == "ready\n", builder.stderr.read()
    time.sleep(moment + random.uniform(0, 0.8))
    os.kill(builder.pid, signal.SIGKILL)
    builder.communicate()
    embedded = sum(map(int, (tmp_path / "embedded").read_text().split())) if (tmp_path / "embedded").exists() else 0
    index = Index(tmp_path / "indexes/kb", stage.embedders.embedder(toy))
    assert len(index) in (40, 3000)
    holds(index, chunks(len(index)))
    calls.clear()
    index = make(tmp_path, chunks(3000), store=store)
    assert sum(calls) <= 3000 - 40 - embedded + 256
    holds(index, chunks(3000))
    assert not {"draft", "removed", "current.new"} & {path.name for path in index.path.iterdir()}
    index.close()


def test_an_interrupted_build_keeps_its_vectors_and_leaves_no_trace(tmp_path):
    class Stops(Slow):
        def embed(self, texts):
            if len(calls) == 2:
                calls.append(0)
                raise KeyboardInterrupt
            return super().embed(texts)

    embedder = Stops(tmp_path / "embedded")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, chunks(700), store="local", embedder=embedder)
    assert sorted(path.name for path in (tmp_path / "indexes/kb").iterdir()) == ["build.lock"]
    index = make(tmp_path, chunks(700), store="local", embedder=embedder)
    assert calls == [256, 256, 0, 188] and len(index) == 700


@pytest.mark.parametrize("wrong", [
    lambda texts: np.ones((len(texts) + 1, 3)), lambda texts: np.ones(len(texts)), lambda texts: np.full((len(texts), 3), np.nan),
    lambda texts: [],
])  # fmt: skip
def test_an_embedder_that_misbehaves(tmp_path, wrong):
    make(tmp_path, chunks(5), embedder="lexical")
    with pytest.raises(InputError, match="did not give one vector"):
        make(tmp_path, chunks(6), embedder=wrong, rebuild=True)
    assert len(stage.open("kb", workspace=tmp_path)) == 5


def test_an_embedders_own_error_comes_through(tmp_path):
    def broken(texts):
        raise ConnectionError("the service is away")

    with pytest.raises(ConnectionError, match="the service is away"):
        make(tmp_path, chunks(5), embedder=broken)


def test_waiting_for_another_build_has_an_end(tmp_path):
    index = make(tmp_path, chunks(5), store="local")
    with Versions(index.path).draft():
        with pytest.raises(StorageError, match="Another process is building 'kb'"):
            make(tmp_path, chunks(6), store="local", wait=0.2)
        assert len(make(tmp_path, chunks(5), store="local")) == 5
    assert len(make(tmp_path, chunks(6), store="local")) == 6


def test_a_full_disk(tmp_path, store):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        index = make(disk, chunks(100), store=store)
        with pytest.raises(StorageError, match="full|space|could not be"):
            make(disk, chunks(60_000, mark="padding " * 20), store=store)
        holds(index, chunks(100))
        (disk / "ballast").write_bytes(b"")
        index = make(disk, chunks(101), store=store)
        holds(index, chunks(101))
        index.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_damaged_or_newer_index(tmp_path):
    index = make(tmp_path, chunks(5), store="local")
    manifest = index.path / "v1" / "manifest.json"
    index.close()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(StorageError, match="newer version"):
        stage.open("kb", workspace=tmp_path)
    manifest.write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        index.search("alpha")


# Input


def test_zero_chunks_and_one(tmp_path, store):
    index = make(tmp_path, chunks(0), store=store)
    assert len(index) == 0 and calls == [] and index
    for mode in ("lexical", "dense", "hybrid"):
        found = index.search("alpha", mode=mode)
        assert len(found) == 0 and list(found.columns) == ["id", "text", "score", "source", "metadata"]
    make(tmp_path, chunks(1), store=store)
    assert index.search("alpha", mode="hybrid")["id"].tolist() == ["doc0#0"]
    make(tmp_path, chunks(0), store=store)
    assert len(index.search("alpha")) == 0
    assert "0 chunks" in index._repr_html_()


@pytest.mark.parametrize("bad", [
    {"text": ["x"]}, {"id": ["a"]}, {}, {"id": ["a"], "text": [""]}, {"id": ["a"], "text": [None]}, {"id": ["a"], "text": [float("nan")]},
    {"id": ["a"], "text": [3]}, {"id": ["a", "a"], "text": ["x", "y"]}, {"id": [1, "1"], "text": ["x", "y"]}, {"id": [""], "text": ["x"]},
    {"id": ["a"], "text": ["\ud800"]}, {"id": ["a"], "text": ["x"], "metadata": ["no dict"]}, None, "text", ["text"],
])  # fmt: skip
def test_bad_chunks_get_one_clear_error_and_change_nothing(tmp_path, bad):
    index = make(tmp_path, chunks(3), store="local")
    with pytest.raises(InputError):
        make(tmp_path, pd.DataFrame(bad, dtype=object) if isinstance(bad, dict) else bad, store="local")
    if isinstance(bad, dict) and bad:
        with pytest.raises(InputError):
            make(tmp_path, bad, store="local")
    assert len(index) == 3


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../kb", "a b", "x" * 65, 3, None, "-x", "a\n"])
def test_a_name_that_is_no_folder_of_ours(tmp_path, name):
    for ask in (lambda: make(tmp_path, chunks(1), name=name), lambda: stage.open(name, workspace=tmp_path)):
        with pytest.raises(InputError):
            ask()


@pytest.mark.parametrize("arguments", [
    {"query": ""}, {"query": " \n"}, {"query": None}, {"query": 3}, {"k": 0}, {"k": -1}, {"k": 1.5}, {"k": True},
    {"mode": "semantic"}, {"where": "source"}, {"where": {"a": {"$like": "b"}}},
])  # fmt: skip
def test_a_search_that_makes_no_sense(tmp_path, arguments):
    index = make(tmp_path, chunks(3), store="local")
    with pytest.raises(InputError):
        index.search(**{"query": "x", **arguments})


def test_names_of_what_does_not_exist(tmp_path):
    make(tmp_path, chunks(1), store="local")
    with pytest.raises(NotFound, match="allowed: kb"):
        stage.open("kbb", workspace=tmp_path)
    for arguments in ({"store": "oracle"}, {"embedder": "word2vec"}, {"embedder": None}, {"embedder": 3}):
        with pytest.raises(InputError):
            make(tmp_path, chunks(1), **arguments)
    with pytest.raises(OpsError, match="no sentence-embedding model"):
        make(tmp_path, chunks(1), name="other", embedder=f"minilm:{tmp_path}")


def test_columns_become_metadata_and_the_question_may_be_anything(tmp_path, store):
    inner = [{"deep": {"a": [1]}, "page": "inner"}] * 6
    frame = chunks(6).assign(source="faq", page=np.arange(6), seen=pd.Timestamp("2026-01-02"), score=[0.5, np.nan] * 3, metadata=inner)
    index = make(tmp_path, frame, store=store)
    row = index.search("number2", k=1, mode="lexical").iloc[0]
    assert row.source == "faq"
    assert row.metadata == {"deep": {"a": [1]}, "page": 2, "doc_id": "doc0", "seen": "2026-01-02 00:00:00", "score": 0.5}
    assert set(index.search("number2", k=9, mode="dense", where={"page": {"$gte": 4}})["id"]) == {"doc1#0", "doc1#1"}
    for question in ("'; DROP TABLE rows; --", "日本語", "x" * 100_000, "a\x00b", "*", '"unclosed', "🙂"):
        assert len(index.search(question, mode="hybrid")) <= 6


def test_the_summary_is_text_only(tmp_path):
    index = make(tmp_path, chunks(3), store="local", embedder=type("<b>evil", (), {"__call__": lambda self, texts: toy(texts)})())
    drawn = index._repr_html_()
    assert "<b>" not in drawn and "&lt;b&gt;evil" in drawn and "3 chunks" in drawn and "local" in drawn


def test_searches_are_traced(tmp_path):
    from llmops_nb.observability.tracing import flush
    from llmops_nb.storage.workspace import Workspace

    with Workspace(tmp_path / "ws") as workspace:
        index = build(chunks(5), embedder="lexical")
        index.search("number3")
        flush()
        [span] = workspace.records.rows("SELECT * FROM spans WHERE kind = 'retrieval'")
        assert span["name"] == "search kb" and "number3" in span["input"] and "doc0#3" in span["output"] and stage.open("kb") is index
    assert open_files(tmp_path) == []


# Embedders and quality


@pytest.mark.slow
def test_minilm_is_found_and_used_without_the_network(tmp_path):
    pytest.importorskip("sentence_transformers")
    from llmops_nb.compute.embedders import find_minilm

    if find_minilm() is None:
        pytest.skip("MiniLM is not on this machine")
    child = python("""
        def watch(event, args):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
                print("NETWORK", event, args, flush=True)
        sys.addaudithook(watch)
        kb = build(chunks(5), workspace=sys.argv[1])
        print(kb.embedder, len(kb.search("alpha", k=5)))
        assert build(chunks(5), workspace=sys.argv[1]) is kb
        kb.close()
        """, tmp_path, env={key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))})
    out, errors = child.communicate(timeout=180)
    assert out.split() == ["hybrid", "5"], out + errors
    again = python("kb = build(chunks(5), workspace=sys.argv[1]); print(kb.embedder, {'torch', 'chromadb'} & set(sys.modules))", tmp_path)
    out, errors = again.communicate(timeout=60)
    assert out == "hybrid set()\n", out + errors


def test_minilm_is_looked_for_where_it_may_be(tmp_path, monkeypatch):
    from llmops_nb.compute import embedders

    def model(folder):
        folder.mkdir(parents=True)
        (folder / "modules.json").write_text("[]")
        (folder / "model.safetensors").write_bytes(b"x")
        return folder.resolve()

    cached = model(tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert embedders.find_minilm() == cached
    given = model(tmp_path / "given")
    monkeypatch.setenv("LLMOPS_NB_MINILM", str(given))
    assert embedders.find_minilm() == given and embedders.find_minilm(cached) == cached
    with pytest.raises(NotFound):
        embedders.find_minilm(tmp_path)


def xquad():
    if not XQUAD.exists():
        pytest.skip(f"{XQUAD.name} is not in ../shared/data")
    paragraphs = [p for article in json.loads(XQUAD.read_text())["data"] for p in article["paragraphs"]]
    frame = pd.DataFrame({"id": [str(i) for i in range(len(paragraphs))], "text": [p["context"] for p in paragraphs]})
    return frame, [(q["question"], str(i)) for i, p in enumerate(paragraphs) for q in p["qas"]]


def recall(index, questions, mode):
    found = [(index.search(question, k=5, mode=mode)["id"].tolist(), gold) for question, gold in questions]
    return tuple(sum(gold in ids[:k] for ids, gold in found) / len(found) for k in (1, 5))


def test_words_find_the_paragraph(tmp_path):
    frame, questions = xquad()
    at1, at5 = recall(build(frame, workspace=tmp_path, embedder="lexical"), questions, "lexical")
    assert at1 >= 0.920 and at5 >= 0.985


@pytest.mark.slow
def test_words_and_vectors_together_find_more(tmp_path):
    pytest.importorskip("sentence_transformers")
    frame, questions = xquad()
    index = build(frame, workspace=tmp_path, embedder="hybrid", store="local")
    lexical, dense, hybrid = (recall(index, questions, mode) for mode in ("lexical", "dense", "hybrid"))
    print(f"\nR@1, R@5: lexical {lexical}, dense {dense}, hybrid {hybrid}")
    assert hybrid[1] >= lexical[1] - 0.002 and hybrid[0] > dense[0]
