"""Where the time goes when the tour's corpus becomes an index, and what a second run and a search cost.

Prints one table for each embedder at hand. Embedding and storing run beside sentence-transformers as it comes and beside bare Chroma.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

import llmops_nb as ops
from llmops_nb.compute import embedders
from llmops_nb.storage.vectors import ChromaStore, VectorCache

QUESTIONS = (
    "how do I open a file for reading", "what does a with statement do", "str.split", "parse a date",
    "run a subprocess and read its output", "difference between a list and a tuple", "what is a metaclass", "sort by two keys",
    "read a csv file", "asyncio timeout",
)  # fmt: skip


def timed(call: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def corpus() -> pd.DataFrame:
    docs = pd.concat([ops.data.load("pydoc:topics"), ops.data.load("pydoc:stdlib")], ignore_index=True)
    return ops.data.dedup(ops.data.clean(docs))


def search_times(kb: "ops.index.Index", mode: str) -> str:
    for question in QUESTIONS:
        kb.search(question, mode=mode)
    times = [timed(partial(kb.search, question, mode=mode))[0] * 1000 for _ in range(20) for question in QUESTIONS]
    return f"p50 {statistics.median(times):6.1f} ms   p99 {statistics.quantiles(times, n=100)[98]:6.1f} ms"


def whole(chunks: pd.DataFrame, cutting: float, embedder: str) -> None:
    first, kb = timed(lambda: ops.index.build(chunks, embedder, embedder))
    again, _ = timed(lambda: ops.index.build(chunks, embedder, embedder))
    parts = kb.manifest["seconds"]
    print(f"{embedder}, {kb.manifest['store']}: {len(chunks):,} chunks, {chunks['text'].str.len().sum() / 1e6:.2f} million characters")
    for label, seconds in (("chunking", cutting), *parts.items(), ("the first build", first), ("the same again", again)):
        print(f"  {label:16} {seconds:8.2f} s")
    for mode in ("lexical", "dense", "hybrid") if kb.manifest["vectors"] else ("lexical",):
        print(f"  search {mode:9} {search_times(kb, mode)}")


def beside_sentence_transformers(texts: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    ours = embedders.embedder("minilm")
    plain = SentenceTransformer(str(embedders.find_minilm()), device="cpu", local_files_only=True)
    ours.embed(texts[:8])
    plain.encode(texts[:8])
    base, theirs = timed(lambda: plain.encode(texts, normalize_embeddings=True, show_progress_bar=False))
    fast, vectors = timed(lambda: ours.embed(texts))
    cosine = (theirs * vectors).sum(axis=1)
    rates = f"sentence-transformers {len(texts) / base:.0f}/s, ours {len(texts) / fast:.0f}/s ({base / fast:.1f}x)"
    print(f"embedding {len(texts)} chunks: {rates}, cosine between them {cosine.min():.4f} at worst")


def beside_bare_chroma(chunks: pd.DataFrame, folder: str) -> None:
    import chromadb

    content = ops.index.read_chunks(chunks.head(2000))
    [cached] = (Path(folder) / "indexes" / ".embeddings").glob("*.db")
    with VectorCache(cached) as cache:
        vectors = cache.get(content.keys)
    names = ("source", "doc_id", "start", "end")
    flat = [{name: one[name] for name in names} for one in content.metadatas]
    rounds = []
    for number in range(3):
        with chromadb.PersistentClient(f"{folder}/bare{number}") as client, ChromaStore(f"{folder}/ours{number}") as store:
            rows = client.create_collection("chunks", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
            add = partial(rows.add, content.ids, embeddings=vectors, documents=content.texts, metadatas=flat)
            upsert = partial(store.upsert, content.ids, vectors, content.texts, flat, content.hashes)
            (bare, _), (ours, _) = timed(add), timed(upsert)
            ask = [(partial(rows.query, query_embeddings=one[None], n_results=5), partial(store.nearest, one, 5)) for one in vectors[:200]]
            asked = [(timed(theirs)[0], timed(mine)[0]) for theirs, mine in ask]
        rounds.append((bare, ours, *(statistics.median(column) * 1000 for column in zip(*asked, strict=True))))
    bare, ours, theirs, mine = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(r[1] / r[0] for r in rounds)
    print(f"storing {len(content.ids):,} rows: bare Chroma {bare:.2f} s, ours {ours:.2f} s ({ratio:.2f}x); "
          f"asking: bare {theirs:.2f} ms, ours {mine:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=256, help="chunks embedded by both sides when they are compared")
    sample = parser.parse_args().sample
    docs = corpus()
    cutting, chunks = timed(lambda: ops.data.chunk(docs, max_tokens=256, overlap=32))
    with tempfile.TemporaryDirectory() as folder, ops.Workspace(folder):
        whole(chunks, cutting, "lexical")
        if embedders.minilm_is_here():
            whole(chunks, cutting, "hybrid")
            beside_bare_chroma(chunks, folder)
            beside_sentence_transformers(chunks["text"].sample(sample, random_state=0).tolist())
        ops.tracing.flush()


if __name__ == "__main__":
    main()
