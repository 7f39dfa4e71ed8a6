"""What a traced call costs beside a bare OpenTelemetry SDK span, and reading 100,000 spans back beside plain sqlite3.

Prints two tables. Each alternative runs in turn with ours, several times; medians are shown.
"""

import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmops_nb as ops

CALLS, ROUNDS, SPANS = 20_000, 7, 100_000


def answer(question: str) -> str:
    return question


def bare_caller() -> Callable[[str], str]:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    tracer = provider.get_tracer("bare")

    def call(question: str) -> str:
        with tracer.start_as_current_span("answer"):
            return answer(question)

    return call


def seconds(call: Callable[[str], str]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call("How do I cancel an order?")
    return time.perf_counter() - started


def calls(ws: ops.Workspace) -> None:
    bare, traced = bare_caller(), ops.trace(answer)
    rounds = []
    for _ in range(ROUNDS):
        base, ours = seconds(bare), seconds(traced)
        started = time.perf_counter()
        ops.tracing.flush()
        rounds.append((base, ours, time.perf_counter() - started))
    base, ours, flush = (statistics.median(column) / CALLS * 1e6 for column in zip(*rounds, strict=True))
    ratio = statistics.median(r[1] / r[0] for r in rounds)
    whole = statistics.median((r[1] + r[2]) / r[0] for r in rounds)
    print(f"a call, microseconds (median of {ROUNDS} rounds of {CALLS:,})")
    print(f"  bare SDK span, batch processor, in memory   {base:6.1f}")
    print(f"  ours, input and output kept, on disk        {ours:6.1f}   {ratio:.2f}x")
    print(f"  ours, and waiting until all are written     {ours + flush:6.1f}   {whole:.2f}x")
    written = ws.records.rows("SELECT count(*) AS n FROM spans")[0]["n"]
    assert written == ROUNDS * CALLS, f"{written} of {ROUNDS * CALLS} spans were written"


def delay(ws: ops.Workspace) -> float:
    with ops.trace("seen"):
        pass
    started = time.perf_counter()
    while not ws.records.rows("SELECT 1 FROM spans WHERE name = 'seen' LIMIT 1"):
        time.sleep(0.005)
    return time.perf_counter() - started


SQL = """SELECT model, max(calls), max(CASE WHEN place = (calls * 95 + 99) / 100 THEN duration_ns END), sum(cost) FROM (
  SELECT model, duration_ns, cost, count(*) OVER (PARTITION BY model) AS calls,
         row_number() OVER (PARTITION BY model ORDER BY duration_ns) AS place FROM spans) GROUP BY model"""


def reading(folder: str) -> None:
    draw = random.Random(0)
    rows = [(f"model-{draw.randrange(6)}", int(draw.lognormvariate(20, 1)), draw.random() / 1000) for _ in range(SPANS)]
    plain = sqlite3.connect(f"{folder}/plain.db")
    plain.execute("CREATE TABLE spans (model TEXT, duration_ns INTEGER, cost REAL)")
    plain.executemany("INSERT INTO spans VALUES (?, ?, ?)", rows)
    plain.commit()
    with ops.Workspace(f"{folder}/read") as ws:
        text = dict(name="chat", kind="chat", status="ok", input="x" * 400, output="y" * 200)
        ws.records.write("spans", [dict(trace_id=f"{i:032x}", span_id=f"{i:016x}", start_ns=i, duration_ns=d, model=m, cost=c, **text)
                                   for i, (m, d, c) in enumerate(rows)])
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            reference = plain.execute(SQL).fetchall()
            between = time.perf_counter()
            ours = ops.traces.summary("model")
            times.append((between - started, time.perf_counter() - between))
        p95 = {model: p for model, _, p, _ in reference}
        assert all(abs(row.p95_s * 1e9 - p95[row.model]) < 1 for row in ours.itertuples())
    base, ours_s = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    print(f"p95 latency and cost by model over {SPANS:,} spans, milliseconds")
    print(f"  plain sqlite3, three columns                {base:6.1f}")
    print(f"  ops.traces.summary, p50 and tokens too      {ours_s:6.1f}   {statistics.median(o / b for b, o in times):.2f}x")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with ops.Workspace(f"{folder}/calls") as ws:
            calls(ws)
            print(f"a span can be queried {statistics.median(delay(ws) for _ in range(5)) * 1000:.0f} ms after it ends")
        reading(folder)
