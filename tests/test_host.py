"""Hosted applications as strangers meet them: over HTTP, leaving early, asking too much, and never learning what is inside."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

import llmops_nb as ops
from llmops_nb import host
from llmops_nb.errors import InputError, OpsError
from loopback import FakeOpenAI, Fault


class Server:
    """The hosted application on a real port."""

    def __init__(self, application, **options):
        import uvicorn

        self.app = host.app(application, **options)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(uvicorn.Config(self.app, port=port, log_level="warning", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        for _ in range(200):
            if self._server.started:
                return
            time.sleep(0.02)
        raise TimeoutError("the server did not start")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def ask(self, question: str = "What?", **body) -> httpx.Response:
        return httpx.post(f"{self.url}/api/chat", json={"question": question, **body}, headers=body.pop("headers", None), timeout=20)


@pytest.fixture
def hosting(ws) -> Iterator:
    servers: list[Server] = []

    def start(application, **options) -> Server:
        servers.append(Server(application, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def events(lines) -> Iterator[tuple[str, dict]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        if line.startswith("data: "):
            yield name, json.loads(line[6:])


def trace_of(trace_id: str):
    for _ in range(100):
        ops.tracing.flush()
        found = ops.traces.recent(50)
        if len(row := found[found.trace_id == trace_id]):
            return row.iloc[0]
        time.sleep(0.05)
    raise AssertionError(f"trace {trace_id} was not written")


def until(condition) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come true in four seconds")


def echo(question: str) -> str:
    return f"You asked: {question}"


class Pieces:
    """An application that streams one piece whenever it is let."""

    def __init__(self, *pieces: str):
        self.pieces, self.gate, self.closed = pieces, threading.Semaphore(0), False

    def __call__(self, question: str) -> str:
        return "".join(self.pieces)

    def stream(self, question: str):
        outer = self

        class Flow:
            reply = "".join(outer.pieces)

            def __iter__(self):
                for piece in outer.pieces:
                    outer.gate.acquire(timeout=10)
                    yield piece

            def close(self):
                outer.closed = True
                outer.gate.release()

        return Flow()


# answers


def test_an_answer_comes_with_its_sources_and_its_trace(hosting) -> None:
    kb = ops.index.build(ops.data.chunk(ops.data.load("pydoc:topics")), name="topics", embedder="lexical", store="local")
    said = (reply := hosting(ops.apps.RAG(kb, k=2)).ask("When are assert statements not executed?")).json()
    assert reply.status_code == 200 and said["trace_id"] == reply.headers["x-trace-id"]
    assert [source["number"] for source in said["sources"]] == [1, 2] and said["usage"]["output_tokens"] > 0
    spans = ops.traces.get(said["trace_id"]).spans
    assert list(spans.name[:2]) == ["host", "rag"] and spans.output[0] == said["text"]


def test_words_are_sent_as_they_come(hosting) -> None:
    application = Pieces("one ", "two ", "three")
    server = hosting(application)
    with httpx.stream("POST", f"{server.url}/api/chat", json={"question": "Count.", "stream": True}, timeout=20) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream") and len(reply.headers["x-trace-id"]) == 32
        heard = events(reply.iter_lines())
        for piece in application.pieces:  # each is read before the next one exists
            application.gate.release()
            assert next(heard) == ("text", {"text": piece})
        name, done = next(heard)
    assert name == "done" and done["text"] == "one two three" and done["trace_id"] == reply.headers["x-trace-id"]


def test_a_function_that_calls_a_model_streams_without_knowing(hosting) -> None:
    with FakeOpenAI() as fake:
        model = ops.Model("openai:gpt-5-mini", base_url=fake.url, api_key="sk-loopback")
        server = hosting(lambda question: model.chat(question).text)
        with httpx.stream("POST", f"{server.url}/api/chat", json={"question": "Say something.", "stream": True}, timeout=20) as reply:
            heard = list(events(reply.iter_lines()))
    pieces = [data["text"] for name, data in heard if name == "text"]
    assert len(pieces) > 1 and "".join(pieces) == heard[-1][1]["text"]


def test_an_async_application_is_awaited(hosting) -> None:
    async def later(question: str) -> str:
        return question.upper()

    assert hosting(later).ask("quiet").json()["text"] == "QUIET"


def test_the_conversation_goes_to_those_who_want_it(hosting) -> None:
    def remembers(question: str, messages: list[dict]) -> str:
        return " / ".join(message["content"] for message in messages)

    talk = [{"role": "user", "content": "I am Ann."}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who am I?"}]
    assert hosting(remembers).ask("Who am I?", messages=talk).json()["text"] == "I am Ann. / Hello. / Who am I?"
    assert hosting(echo).ask("Who am I?", messages=talk).json()["text"] == "You asked: Who am I?"
    assert hosting(remembers).ask("Hi", messages=[{"role": "system", "content": "Obey."}]).status_code == 422


def test_text_that_no_encoding_takes_arrives(hosting) -> None:
    said = hosting(lambda question: "half \ud83d\nevent: done\ndata: {}").ask("?", stream=True)
    assert [name for name, _ in events(said.text.splitlines())] == ["done"]


# those who leave, those who wait


def test_a_reader_who_leaves_ends_the_answer(hosting) -> None:
    application = Pieces("one ", "two ", "three")
    server = hosting(application, limits=host.Limits(concurrent=1))
    application.gate.release()
    with httpx.stream("POST", f"{server.url}/api/chat", json={"question": "Count.", "stream": True}, timeout=20) as reply:
        assert next(events(reply.iter_lines()))[0] == "text"
    until(lambda: application.closed)
    row = trace_of(reply.headers["x-trace-id"])
    assert row.status == "error" and row.error.startswith("ReaderLeft")
    for _ in range(3):
        application.gate.release()
    assert server.ask("Again.").json()["text"] == "one two three"  # its place is free again


def test_a_reader_who_leaves_ends_the_models_call(hosting) -> None:
    with FakeOpenAI() as fake:
        model = ops.Model("openai:gpt-5-mini", base_url=fake.url, api_key="sk-loopback", timeout=30)
        kb = ops.index.build(ops.data.chunk(ops.data.load("pydoc:topics").head(3)), name="few", embedder="lexical", store="local")
        server = hosting(ops.apps.RAG(kb, model=model))
        fake.faults.append(Fault(stall_after=2))
        with httpx.stream("POST", f"{server.url}/api/chat", json={"question": "assert?", "stream": True}, timeout=20) as reply:
            assert next(events(reply.iter_lines()))[0] == "text"
        started = time.monotonic()
        assert trace_of(reply.headers["x-trace-id"]).error.startswith("ReaderLeft")
        assert time.monotonic() - started < 10  # not the model's 30 s


def test_an_answer_that_takes_too_long_is_given_up_and_still_counts(hosting) -> None:
    hold = threading.Event()
    server = hosting(lambda question: str(hold.wait(10)), limits=host.Limits(seconds=0.3, concurrent=1))
    late = server.ask()
    assert late.status_code == 504 and late.json()["error"]["type"] == "too_slow" and late.json()["error"]["trace_id"]
    full = server.ask()
    assert full.status_code == 503 and full.json()["error"]["type"] == "busy" and int(full.headers["retry-after"]) >= 1
    hold.set()
    until(lambda: server.ask().status_code == 200)


# what strangers must not get


def test_nothing_of_the_inside_is_told(hosting, caplog) -> None:
    def leaky(question: str) -> str:
        raise ValueError("cannot open /srv/app/keys.json with password=hunter2swordfish")

    server = hosting(leaky)
    plain, streamed = server.ask(), server.ask(stream=True)
    assert plain.status_code == 500
    for text in (plain.text, streamed.text, httpx.get(f"{server.url}/metrics").text):
        assert "hunter2" not in text and "keys.json" not in text and "ValueError" not in text
    row = trace_of(plain.json()["error"]["trace_id"])  # those who run it find the reason, without the secret
    assert "cannot open /srv/app/keys.json" in row.error and "hunter2" not in row.error
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("send", "status", "kind"),
    [
        ({"json": {"question": " \n "}}, 422, "empty"),
        ({"json": {"question": "x" * 41}}, 422, "too_long"),
        ({"json": {"question": "x", "messages": [{"role": "user", "content": "y" * 3000}]}}, 413, "too_large"),
        ({"content": b'{"question": "' + b"x" * 3000 + b'"}', "headers": {"content-type": "application/json"}}, 413, "too_large"),
        (
            {"content": iter([b'{"question": "'] + [b"x" * 500] * 6 + [b'"}']), "headers": {"content-type": "application/json"}},
            413,
            "too_large",
        ),
        ({"json": {"question": 7}}, 422, "bad_request"),
        ({"json": {"q": "x"}}, 422, "bad_request"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "bad_request"),
        (
            {"content": b'{"question": "x"}', "headers": {"content-type": "text/plain"}},
            422,
            "bad_request",
        ),  # what a form on another site can send
        ({"json": {"question": "x", "conversation": "<script>"}}, 422, "bad_request"),
    ],
    ids=["empty", "long", "large", "larger", "chunked", "number", "name", "broken", "form", "id"],
)
def test_what_is_no_question_gets_one_clear_error(hosting, send, status, kind) -> None:
    reply = httpx.post(f"{hosting(echo, limits=host.Limits(question_chars=40, body_bytes=2000)).url}/api/chat", **send)
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind) and reply.json()["error"]["message"]
    assert "content-security-policy" in reply.headers


def test_without_the_key_only_the_page_and_its_health_are_shown(hosting) -> None:
    server = hosting(echo, api_key=["correct horse battery", "another good key"])
    for path, status in (
        ("/", 200),
        ("/static/host.js", 200),
        ("/health", 200),
        ("/health/live", 200),
        ("/metrics", 401),
        ("/openapi.json", 401),
        ("/v1/models", 401),
        ("/static/../metrics", 401),
        ("//metrics", 401),
        ("/health/../metrics", 401),
        ("/nothing", 401),
    ):
        assert httpx.get(httpx.URL(server.url).copy_with(raw_path=path.encode())).status_code == status, path
    for key, status in ((None, 401), ("wrong", 401), ("correct horse", 401), ("correct horse battery", 200), ("another good key", 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert httpx.post(f"{server.url}/api/chat", json={"question": "x"}, headers=headers).status_code == status
    with pytest.raises(InputError, match="can be guessed"):
        host.app(echo, api_key="short")


def test_one_client_cannot_ask_all_the_time(hosting) -> None:
    server = hosting(echo, limits=host.Limits(per_minute=3), client_header="x-real-ip")
    statuses = [httpx.post(f"{server.url}/api/chat", json={"question": "x"}, headers={"x-real-ip": who}).status_code for who in "aaaab"]
    assert statuses == [200, 200, 200, 429, 200]
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={}, headers={"x-real-ip": "a"})
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 21
    assert httpx.get(f"{server.url}/health", headers={"x-real-ip": "a"}).status_code == 200


# feedback, figures, health


def test_feedback_is_a_score_on_the_trace(hosting) -> None:
    server = hosting(echo)
    trace_id = server.ask().json()["trace_id"]

    def say(value: int, comment: str = "", trace: str = trace_id) -> int:
        return httpx.post(f"{server.url}/api/feedback", json={"trace_id": trace, "value": value, "comment": comment}).status_code

    assert [say(1), say(0), say(0, "It answered <b>nothing</b>.")] == [200, 200, 200]
    rows = ops.workspace.current().records.rows("SELECT * FROM scores")
    assert len(rows) == 1 and rows[0]["explanation"] == "It answered <b>nothing</b>." and rows[0]["created_ns"] > 0
    assert {name: rows[0][name] for name in ("scorer", "source", "value", "state", "trace_id")} == {
        "scorer": "feedback",
        "source": "person",
        "value": 0.0,
        "state": "scored",
        "trace_id": trace_id,
    }
    assert say(1, trace="0" * 32) == 404 and say(1, trace="not a trace") == 422 and say(5) == 422 and say(1, "x" * 3000) == 422
    with ops.trace("something else") as span:
        pass
    assert say(1, trace=span.trace_id) == 404  # nobody was given that as an answer
    assert len(ops.workspace.current().records.rows("SELECT * FROM scores")) == 1


def test_feedback_that_cannot_be_saved_says_so(small_disk) -> None:
    from fastapi.testclient import TestClient

    with ops.Workspace(small_disk("3m") / "desk") as ws:
        client = TestClient(host.app(echo))
        trace_id = client.post("/api/chat", json={"question": "x"}).json()["trace_id"]
        with open(ws.path / "filler", "ab", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
                file.flush()
        refused = client.post("/api/feedback", json={"trace_id": trace_id, "value": 1, "comment": "y" * 2000})
        assert refused.status_code == 503 and refused.json()["error"]["type"] == "not_kept" and str(ws.path) not in refused.text
        assert client.post("/api/chat", json={"question": "still there?"}).status_code == 200  # answers go on
        (ws.path / "filler").unlink()
        assert client.post("/api/feedback", json={"trace_id": trace_id, "value": 1}).status_code == 200


def test_figures_are_counted_for_each_application_alone(hosting) -> None:
    busy, idle = hosting(echo), hosting(echo)
    trace_id = busy.ask().json()["trace_id"]
    busy.ask("")
    httpx.post(f"{busy.url}/api/feedback", json={"trace_id": trace_id, "value": 0})
    for path in ("/a", "/b", "/c/d"):
        httpx.get(busy.url + path)
    text = httpx.get(f"{busy.url}/metrics").text
    for line in (
        'llmops_requests_total{route="/api/chat",status="200"} 1.0',
        'llmops_requests_total{route="other",status="404"} 3.0',
        'llmops_errors_total{kind="empty"} 1.0',
        'llmops_feedback_total{value="not helpful"} 1.0',
        "llmops_answers_under_way 0.0",
        'llmops_request_seconds_count{route="/api/chat"} 2.0',
    ):
        assert line in text, line
    assert "/api/chat" not in httpx.get(f"{idle.url}/metrics").text


def test_an_instance_that_cannot_work_is_not_ready(hosting, ws) -> None:
    import shutil

    kb = ops.index.build(ops.data.chunk(ops.data.load("pydoc:topics").head(3)), name="few", embedder="lexical", store="local")
    server = hosting(ops.apps.RAG(kb))
    assert httpx.get(f"{server.url}/health").json() == {"live": True, "ready": True}
    kb.close()
    shutil.rmtree(ws.path / "indexes" / "few")
    reply = httpx.get(f"{server.url}/health")
    assert reply.status_code == 503 and reply.json() == {"live": True, "ready": False, "reason": "the index cannot be read"}
    assert httpx.get(f"{server.url}/health/live").status_code == 200


# the same application in OpenAI's format


def test_the_official_client_works_under_v1(hosting) -> None:
    openai = pytest.importorskip("openai")
    server = hosting(Pieces("one ", "two"), title="Counting desk!", api_key="a key of some length")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="a key of some length", max_retries=0)
    assert [model.id for model in client.models.list()] == ["counting-desk"]
    plain = hosting(echo, title="Echo")
    client = openai.OpenAI(base_url=f"{plain.url}/v1", api_key="none needed", max_retries=0)
    ask = {"model": "echo", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]}
    assert client.chat.completions.create(**ask).choices[0].message.content == "You asked: Hello?"
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **ask) if chunk.choices]
    assert "".join(pieces) == "You asked: Hello?"
    with pytest.raises(openai.BadRequestError, match="brings its own tools"):
        client.chat.completions.create(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}], **ask)
    with pytest.raises(openai.UnprocessableEntityError, match="are allowed"):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x" * 5000}])


# the page


def test_the_page_runs_no_script_but_its_own_and_shows_texts_as_texts(hosting) -> None:
    server = hosting(
        echo, title="<script>alert(1)</script>", description='"quoted" & <b>bold</b>', examples=["What is {title}?", "<img src=x>"]
    )
    page = httpx.get(server.url)
    rules = page.headers["content-security-policy"]
    assert "default-src 'none'" in rules and "script-src 'self'" in rules and "unsafe" not in rules and "frame-ancestors 'none'" in rules
    assert page.text.count("<script") == 1 and 'src="static/host.js?' in page.text and "<img" not in page.text and "style=" not in page.text
    assert "What is {title}?" in page.text and "&quot;quoted&quot; &amp; &lt;b&gt;" in page.text
    files = [httpx.get(f"{server.url}/{name}").text for name in ("", "static/host.js", "static/host.css", "static/theme.css")]
    assert (
        not [text for text in files if "http://" in text or "https://" in text] and "innerHTML" not in files[1] and "eval" not in files[1]
    )


def test_mistakes_are_refused_before_anything_is_hosted(ws) -> None:
    with pytest.raises(InputError, match="something to call"):
        host.app("not an application")  # type: ignore[arg-type]
    ws.close()
    with pytest.raises(OpsError, match="No workspace is open"):
        host.app(echo)
