"""Where documents come from, as people have it: buckets, web servers, hub datasets, torn and hostile files, corpora larger than memory."""

import gzip
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docx
import pandas as pd
import pytest

import llmops_nb as ops
from llmops_nb import data
from llmops_nb.errors import InputError, MissingExtra, NotFound, StorageError


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, dict]]:
    """A bucket of a real S3 server on this machine, and the options to reach it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1")
    s3.create_bucket(Bucket="corpus")
    files = {"notes/a.md": b"# A", "notes/b/c.txt": b"C", "notes/photo.png": b"\x89PNG", "rows.jsonl": b'{"text": "one"}\n{broken\n'}
    for name, content in files.items():
        s3.put_object(Bucket="corpus", Key=name, Body=content)
    yield "s3://corpus", {"key": "k", "secret": "s", "endpoint_url": endpoint}
    server.stop()


def test_a_bucket(bucket) -> None:
    address, options = bucket
    table = data.load(f"{address}/notes", storage_options=options)
    assert dict(zip(table.id, table.text, strict=True)) == {"a.md": "# A", "b/c.txt": "C"}
    assert table.source.tolist() == ["s3://corpus/notes/a.md", "s3://corpus/notes/b/c.txt"]
    assert data.lineage(table).id.tolist() == ["photo.png"]
    assert data.load(f"{address}/notes/*.md", storage_options=options).id.tolist() == ["a.md"]
    assert data.load(f"{address}/notes", storage_options=options, engine="processes").equals(table)
    rows = data.load(f"{address}/rows.jsonl", storage_options=options)
    assert rows.text.tolist() == ["one"] and data.lineage(rows).id.tolist() == ["rows.jsonl:line 2"]
    for gone in ("nothing/", "nothing/*.md"):
        with pytest.raises(NotFound):
            data.load(f"{address}/{gone}", storage_options=options)
    nobody = options | {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(StorageError, match="could not be read") as caught:
        data.load(f"{address}/notes", storage_options=nobody)
    assert "next:" in str(caught.value)


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves files; /guide is a page without an ending, /torn stops half-way."""

    def do_GET(self) -> None:
        if self.path.startswith("/guide"):
            self.answer(b"<title>Guide</title><p>Read me.", "text/html")
        elif self.path.startswith("/torn.txt"):
            self.answer(b"half of it", "text/plain", 10_000)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.startswith("/guide"):
            self.answer(b"", "text/html", len(b"<title>Guide</title><p>Read me."))
        elif self.path.startswith("/torn.txt"):
            self.answer(b"", "text/plain", 10_000)
        else:
            super().do_HEAD()

    def answer(self, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_web(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("# Note")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    page = data.load(f"{address}/guide?key=sesame")
    assert page.text.tolist() == ["Read me."] and page.metadata[0]["title"] == "Guide" and "sesame" not in page.to_json()
    with pytest.raises(StorageError) as caught:
        data.load(f"{address}/torn.txt?key=sesame")
    assert "sesame" not in str(caught.value)
    (tmp_path / "empty.txt").write_text("")
    for source in (f"http://ann:QXJZQ@127.0.0.1:{server.server_port}/empty.txt?key=sesame", [f"{address}/empty.txt?key=sesame"]):
        with pytest.raises(InputError) as refused:
            data.load(source)
        assert not any(secret in str(refused.value) + repr(refused.value) for secret in ("sesame", "QXJZQ", "ann"))
    server.shutdown()


def test_a_dataset_as_the_hub_gives_it(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    pd.DataFrame({"review": ["Good.", "Bad.", ""], "stars": [5, 1, 3]}).to_parquet(folder / "train.parquet")
    table = data.load(f"hf:{folder}?split=train", text="review")
    assert table.text.tolist() == ["Good.", "Bad."] and table.metadata[0]["stars"] == 5
    assert data.lineage(table).reason.tolist() == ["The document is empty."]
    with pytest.raises(InputError, match="no column named text"):
        data.load(f"hf:{folder}")
    with pytest.raises(InputError, match="no address"):
        data.load("hf:a/b?rows=3")


def test_formats_people_have(tmp_path: Path) -> None:
    letter = docx.Document()
    letter.add_heading("Refunds", 2)
    letter.add_paragraph("Within 30 days.")
    letter.save(tmp_path / "letter.docx")
    pd.DataFrame({"id": ["p"], "text": ["from parquet"], "when": pd.to_datetime(["2026-01-02"])}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text('[{"id": "j", "text": "from json"}, 3]')
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "code.py").write_text("def f():\n    return 1\n")
    table = data.load(tmp_path).set_index("id")
    assert table.text["letter.docx"] == "## Refunds\n\nWithin 30 days." and table.text["p"] == "from parquet"
    assert table.text["packed.txt.gz"] == "packed" and table.text["code.py"].startswith("def f") and table.text["j"] == "from json"
    assert "2026-01-02" in table.metadata["p"]["when"]
    assert data.load(tmp_path / "rows.json", id=None).id.tolist() == ["rows.json:row 1"]


def bomb(inside: str, size: int = 400 * 2**20) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as packed, packed.open(inside, "w") as file:
        for _ in range(size // 2**20):
            file.write(b"0" * 2**20)
    return out.getvalue()


@pytest.mark.parametrize("bar", [True, False])
def test_a_reader_is_told_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: bool) -> None:
    from llmops_nb import sources
    from llmops_nb.readers import Part

    monkeypatch.setattr(sources, "bars_hidden", lambda: not bar)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.docx").write_bytes(b"x")
    (tmp_path / "B.HTML.GZ").write_bytes(gzip.compress(b"x"))
    table = data.load(tmp_path, reader=lambda file, wanted: iter([Part(None, f"{wanted.name} {file.read().decode()}")]))
    assert table.text.tolist() == ["B.HTML x", "in/a.docx x"]


def test_without_docling_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops_nb import readers

    readers._docling.cache_clear()
    monkeypatch.setitem(sys.modules, "docling.document_converter", None)
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"llmops_nb\[docling\]"):
        data.load(tmp_path, reader="docling")


def test_rubbish_is_named_and_the_rest_goes_through(tmp_path: Path) -> None:
    good = {"good.md": b"good", "good.html": b"<p>good<script>alert(1)</script>",
            "good.jsonl": b'{"text": "good"}\n{"text": "x' + b"y" * 3_000_000 + b'"}\n'}
    bad = {
        "bomb.docx": bomb("word/document.xml"), "bomb.txt.gz": gzip.compress(b"0" * 300 * 2**20),
        "torn.txt.gz": gzip.compress(os.urandom(5000))[:2000], "not.csv.gz": b"plain", "empty.pdf": b"",
        "broken.pdf": b"%PDF-1.7\n" + os.urandom(3000), "broken.docx": b"PK\x03\x04" + os.urandom(100),
        "broken.parquet": b"PAR1" + os.urandom(100) + b"PAR1", "deep.json": b"[" * 200_000, "deep.ipynb": b"[" * 200_000,
        "nul.csv": b"text\na\0b\n", "object.json": b"{}", "wide.txt": "wide".encode("utf-16-le"),
    }
    for name, content in (good | bad).items():
        (tmp_path / name).write_bytes(content)
    started = time.perf_counter()
    table = data.load(tmp_path, max_bytes=2_000_000)
    notes = data.lineage(table).set_index("id")
    assert set(table.id) == {"good.md", "good.html", "good.jsonl:line 1"} and "alert" not in "".join(table.text)
    elsewhere = data.load(tmp_path, max_bytes=2_000_000, engine="processes")
    assert table.equals(elsewhere) and data.lineage(elsewhere).equals(data.lineage(table))
    assert set(notes.index) == set(bad) | {"good.jsonl:line 2"}, set(notes.index) ^ set(bad)
    assert "unpacks to 419,430,400 bytes" in notes.reason["bomb.docx"] and "longer than max_bytes" in notes.reason["good.jsonl:line 2"]
    assert time.perf_counter() - started < 20
    for name in bad:
        with pytest.raises((InputError, StorageError), match=name.replace(".", "[.]")):
            data.load(tmp_path / name, max_bytes=2_000_000)


def test_one_bad_line_in_a_million(tmp_path: Path) -> None:
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for n in range(1_000_000):
            file.write('{"text": "row"}\n' if n != 654_320 else '{"text": "row\n')
    rows, notes = 0, []
    for part in data.batches(tmp_path / "rows.jsonl"):
        rows += len(part)
        notes += list(data.lineage(part).id)
    assert rows == 999_999 and notes == ["rows.jsonl:line 654321"]


BOUNDED = """
import resource, sys
import llmops_nb as ops
parts = ops.data.clean(ops.data.batches(sys.argv[1]))
first = len(next(parts))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = first + sum(len(part) for part in parts)
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_corpus_goes_through_in_the_memory_of_a_few_batches(tmp_path: Path) -> None:
    text = "One sentence after another, and none of them long. " * 40
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for n in range(100_000):
            file.write(json.dumps({"id": f"row {n}", "text": f"{n} {text}"}) + "\n")
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True, check=True)
    rows, more = map(int, done.stdout.split())
    assert rows == 100_000
    assert more < 120, f"{more} MB more for 200 MB of text"


def test_steps_give_the_same_here_there_and_in_parts() -> None:
    docs = data.load("pydoc:topics")
    here = data.chunk(data.redact(data.filter(data.clean(docs), "gopher"), ["email"]), 64, 8)
    parts = data.chunk(data.redact(data.filter(data.clean(data.batches("pydoc:topics", characters=50_000)), "gopher"), ["email"]), 64, 8)
    joined = pd.concat([part for part in parts if len(part)], ignore_index=True)
    assert here.equals(joined)
    with_processes = data.chunk(data.filter(data.clean(docs, engine="processes"), "gopher", engine="processes"), 64, 8, engine="processes")
    assert here.equals(with_processes) and data.lineage(here).equals(data.lineage(with_processes))


def test_reports_are_the_same_here_there_and_in_parts() -> None:
    docs = data.load("pydoc:topics")
    docs["text"] = [f"{text}\n{number}@example.org" for number, text in enumerate(docs.text)]
    tests = pd.DataFrame({"id": ["t"], "input": [" ".join(docs.text[3].split()[20:60])]})
    held, personal = data.contamination(docs, tests), data.pii(docs, ["email", "ip"])
    assert held.id.tolist() == [docs.id[3]] and len(personal) == len(docs) and not held.attrs
    assert data.contamination(iter([docs[:30], docs[30:]]), tests).equals(held)
    assert data.contamination(docs, tests, engine="processes").equals(held)
    assert data.pii(iter([docs[:30], docs[30:]]), ["email", "ip"]).equals(personal)
    assert data.pii(docs, ["email", "ip"], engine="processes").equals(personal)
    assert data.pii(docs.head(1), ["iban"]).empty and list(data.pii(iter([docs.head(1)]), ["iban"]).columns) == list(personal.columns)


def test_ray_with_two_workers_gives_the_same(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}})
    try:
        docs = data.load("pydoc:stdlib")
        assert data.clean(docs, engine="ray").equals(data.clean(docs))
        here, there = data.chunk(docs, 64, 8), data.chunk(docs, 64, 8, engine="ray")
        assert here.equals(there)
        assert data.dedup(docs, near=0.5, engine="ray").equals(data.dedup(docs, near=0.5))
        streamed = list(data.filter(data.batches("pydoc:stdlib", characters=200_000), "c4", engine="ray"))
        assert pd.concat(streamed, ignore_index=True).equals(data.filter(docs, "c4")) and len(streamed) > 3
        for number, text in enumerate(docs.text[:300]):
            (tmp_path / f"{number}.html").write_text(f"<h1>{number}</h1><pre>{text * 20}</pre>")
        pages = data.load(tmp_path)
        assert data.load(tmp_path, engine="ray").equals(pages) and len(pages) == 300
        with pytest.raises(InputError, match="no text"):
            data.filter(docs.assign(text=None), engine="ray")
    finally:
        ray.shutdown()


def test_a_stream_is_searched_for_equal_texts_only() -> None:
    docs = pd.DataFrame({"id": ["a", "b", "c"], "text": ["same", "Same ", "other"]})
    parts = list(data.dedup(iter([docs[:1], docs[1:]])))
    assert [list(part.id) for part in parts] == [["a"], ["c"]] and data.lineage(parts[1]).reason.tolist() == ["The same text as a."]
    with pytest.raises(InputError, match="equal texts only"):
        data.dedup(iter([docs]), near=0.8)
    with pytest.raises(InputError, match="no such engine"):
        data.clean(docs, engine="spark")


def test_interrupted_a_stream_leaves_the_lake_as_it_was(ws, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.txt").write_text(f"text {n}")
    ops.lake.write("texts", data.load(folder))

    def interrupted() -> Iterator[pd.DataFrame]:
        yield from data.clean(data.batches(folder, characters=5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ops.lake.write("texts", interrupted())
    assert len(ops.lake.read("texts")) == 5
