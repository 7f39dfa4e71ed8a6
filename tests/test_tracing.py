"""Tracing: never raises, never changes, loses nothing it wrote, leaks nothing."""

import asyncio
import contextvars
import gc
import http.server
import inspect
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import kill, start

import llmops_nb as ops
from llmops_nb.observability import conventions, tracing


def spans(ws) -> list[dict]:
    tracing.flush()
    return ws.records.rows("SELECT * FROM spans ORDER BY start_ns")


def test_spans_can_be_queried_within_a_second(ws) -> None:
    with ops.trace("step"):
        pass
    deadline = time.perf_counter() + 1
    while time.perf_counter() < deadline and not ws.records.rows("SELECT 1 FROM spans"):
        time.sleep(0.02)
    assert ws.records.rows("SELECT name FROM spans") == [{"name": "step"}]


def test_kill_loses_no_span_that_was_flushed(tmp_path: Path) -> None:
    child = start("""
        import sys, llmops_nb as ops
        ops.Workspace(sys.argv[1])
        for i in range(100_000):
            with ops.trace("step", input=i): pass
            if i % 50 == 0:
                ops.tracing.flush(); print(i)
    """, tmp_path / "w")
    flushed = [int(child.stdout.readline()) for _ in range(20)][-1]
    kill(child)
    with ops.Workspace(tmp_path / "w") as ws:
        found = {row["input"] for row in ws.records.rows("SELECT input FROM spans")}
        assert {str(i) for i in range(flushed + 1)} <= found


def test_an_interpreter_that_exits_writes_its_spans(tmp_path: Path) -> None:
    child = start("import sys, llmops_nb as ops; ops.Workspace(sys.argv[1]); ops.trace(lambda: 1)()", tmp_path / "w")
    assert child.wait(60) == 0
    with ops.Workspace(tmp_path / "w") as ws:
        assert len(spans(ws)) == 1


def test_full_disk_never_reaches_the_traced_function(small_disk, caplog: pytest.LogCaptureFixture) -> None:
    disk = small_disk("2m")
    ws = ops.Workspace(disk / "w")
    answer = ops.trace(lambda text: len(text))
    with caplog.at_level(logging.WARNING):
        assert [answer("x" * 20_000) for _ in range(200)] == [20_000] * 200
        tracing.flush()
    assert caplog.text.count("Spans are waiting to be written") >= 1
    os.system(f"mount -o remount,size=40m {disk}")
    assert len(spans(ws)) == 200  # nothing was lost: they were written when there was room
    ws.close()


def test_context_follows_threads_and_tasks_that_take_it(ws) -> None:
    async def child(n: int) -> None:
        with ops.trace(f"task {n}"):
            await asyncio.sleep(0.001)

    async def parent() -> None:
        with ops.trace("parent"):
            await asyncio.gather(*(child(n) for n in range(20)))

    asyncio.run(parent())
    with ops.trace("pool") as pool_span, ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            pool.submit(contextvars.copy_context().run, ops.trace(lambda: None))
    rows = spans(ws)
    parent_id = next(row["span_id"] for row in rows if row["name"] == "parent")
    assert sum(row["parent_id"] == parent_id for row in rows) == 20
    assert sum(row["parent_id"] == pool_span.span_id for row in rows) == 8


@pytest.mark.parametrize("error", [KeyError("a"), KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(3)])
def test_exceptions_come_through_as_the_same_object(ws, error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def afail() -> None:
        raise error

    def gen():
        yield 1
        raise error

    for run in (ops.trace(fail), lambda: drive(ops.trace(afail)()), lambda: list(ops.trace(gen)())):
        with pytest.raises(type(error)) as caught:
            run()
        assert caught.value is error
    assert [row["status"] for row in spans(ws)] == ["error"] * 3


def drive(coroutine) -> None:
    coroutine.send(None)


def test_the_wrapper_is_what_it_wraps(ws) -> None:
    class Desk:
        @ops.trace
        def plain(self, question: str, *, loud: bool = False) -> str:
            "Answers."
            return question.upper() if loud else question

        @ops.trace
        @staticmethod
        def fixed(n: int) -> int:
            return n

        @ops.trace("made", kind="execute_tool")
        @classmethod
        def made(cls) -> str:
            return cls.__name__

    assert Desk().plain("a", loud=True) == "A" and Desk.fixed(3) == 3 and Desk.made() == "Desk"
    assert str(inspect.signature(Desk.plain)) == "(self, question: str, *, loud: bool = False) -> str" and Desk.plain.__doc__ == "Answers."
    rows = spans(ws)
    assert rows[0]["input"] == '{"question": "a", "loud": true}' and rows[0]["name"] == "Desk.plain"
    assert rows[2]["kind"] == "execute_tool"


def test_a_generator_that_is_dropped_half_way_ends_its_span_without_error(ws) -> None:
    closed = []

    @ops.trace
    def stream():
        try:
            yield from "abc"
        finally:
            closed.append(True)

    steps = stream()
    assert next(steps) == "a"
    del steps
    gc.collect()
    row, = spans(ws)
    assert closed == [True] and row["status"] == "ok" and row["output"] == '"a"'


def test_spans_made_by_the_consumer_between_items_are_not_the_generators_children(ws) -> None:
    @ops.trace
    def stream():
        with ops.trace("inside"):
            pass
        yield 1
        yield 2

    with ops.trace("consumer") as consumer:
        for _ in stream():
            with ops.trace("between"):
                pass
    parents = {row["name"]: row["parent_id"] for row in spans(ws)}
    ids = {row["name"]: row["span_id"] for row in spans(ws)}
    assert parents["between"] == consumer.span_id and parents["inside"] == ids[next(n for n in ids if n.endswith("stream"))]


async def adrain(steps) -> list:
    return [item async for item in steps]


def test_async_generators_keep_asend_athrow_and_aclose(ws) -> None:
    @ops.trace
    async def chat():
        got = yield "ready"
        try:
            yield got
        except ValueError:
            yield "caught"

    async def talk() -> list:
        steps = chat()
        return [await anext(steps), await steps.asend("hello"), await steps.athrow(ValueError()), await steps.aclose()]

    assert asyncio.run(talk()) == ["ready", "hello", "caught", None]
    assert inspect.isasyncgenfunction(chat) and asyncio.run(adrain(chat())) == ["ready", None]
    assert {row["status"] for row in spans(ws)} == {"ok"}


def test_arguments_that_change_later_are_kept_as_they_were(ws) -> None:
    @ops.trace
    def clear(rows: list) -> int:
        rows.clear()
        return 0

    clear([1, 2, 3])
    assert spans(ws)[0]["input"] == '{"rows": [1, 2, 3]}'


def test_a_gigabyte_argument_costs_no_gigabyte(ws) -> None:
    text = "x" * 300_000_000
    started = time.perf_counter()
    ops.trace(len)(text)
    assert time.perf_counter() - started < 1 and len(spans(ws)[0]["input"]) < 2 * tracing.MAX_CHARS


def test_no_secret_is_stored_or_sent(ws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPDESK_API_KEY", "correct-horse-battery-staple")
    key = "sk-proj-" + "a1B2" * 8
    time.sleep(1.1)  # the environment is read at most once a second

    @ops.trace
    def call(prompt: str, headers: dict) -> str:
        raise PermissionError(f"401 for {key}")

    with pytest.raises(PermissionError):
        headers = {"Authorization": "Bearer abcdefghijklmnopqrstuvwxyz", "api_key": "plain-old-key"}
        call(f"use {key} or correct-horse-battery-staple", headers)
    with ops.trace("url", note="postgresql://me:hunter2@db/x"):
        pass
    stored = str(spans(ws)) + "".join(file.read_bytes().decode("latin1") for file in ws.path.glob("records.db*"))
    for secret in (key, "correct-horse", "abcdefghijklmnopqrstuvwxyz", "plain-old-key", "hunter2"):
        assert secret not in stored, secret


def test_otlp_sends_redacted_spans_to_a_real_receiver(ws) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    bodies: list[bytes] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip
                body = gzip.decompress(body)
            bodies.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sender = tracing.export_to(f"http://127.0.0.1:{server.server_port}/v1/traces")
    assert tracing.export_to(f"http://127.0.0.1:{server.server_port}/v1/traces") is sender  # a cell run twice sends once
    with ops.trace("chat m", kind="chat", input=[{"role": "user", "content": "my key is ghp_" + "a" * 36}]) as span:
        span.set(conventions.MODEL, "m")
    tracing.flush()
    sender.shutdown()
    server.shutdown()
    resources = [r for body in bodies for r in ExportTraceServiceRequest.FromString(body).resource_spans]
    received = [s for resource in resources for scope in resource.scope_spans for s in scope.spans]
    sent = next(s for s in received if s.name == "chat m")
    attributes = {a.key: a.value.string_value for a in sent.attributes}
    assert attributes["gen_ai.request.model"] == "m" and "ghp_" not in attributes["gen_ai.input.messages"]
    assert sent.trace_id.hex() == span.trace_id


def test_other_libraries_reach_the_current_span(ws) -> None:
    from opentelemetry import trace as otel

    with ops.trace("outer") as outer:
        otel.get_current_span().set_attribute("order", 7)
        otel.get_current_span().add_event("cache miss")
        with tracing.provider().get_tracer("library").start_as_current_span("inner", attributes={"llm.model_name": "m"}):
            pass
    by_name = {row["name"]: row for row in spans(ws)}
    assert by_name["inner"]["parent_id"] == outer.span_id and by_name["inner"]["model"] == "m"
    assert '"order": 7' in by_name["outer"]["attributes"]


def test_spans_of_a_closed_workspace_are_written_before_it_closes(tmp_path: Path) -> None:
    ws = ops.Workspace(tmp_path / "w")
    for _ in range(50):
        with ops.trace("step"):
            pass
    ws.close()
    with ops.Workspace(tmp_path / "w") as again:
        assert again.records.rows("SELECT count(*) AS n FROM spans") == [{"n": 50}]


def test_a_forked_child_traces_too(tmp_path: Path) -> None:
    child = start("""
        import os, sys, llmops_nb as ops
        ops.Workspace(sys.argv[1])
        with ops.trace("parent"): pass
        pid = os.fork()
        with ops.trace("child" if pid == 0 else "parent again"): pass
        ops.tracing.flush()
        if pid: os.waitpid(pid, 0)
        else: os._exit(0)
    """, tmp_path / "w")
    out, err = child.communicate(timeout=60)
    with ops.Workspace(tmp_path / "w") as ws:
        assert sorted(row["name"] for row in spans(ws)) == ["child", "parent", "parent again"], err


def test_text_that_is_not_unicode_holds_no_span_back(ws) -> None:
    with ops.trace("half a pair", input="\ud83d"):
        pass
    with ops.trace("after"):
        pass
    assert [row["name"] for row in spans(ws)] == ["half a pair", "after"]
