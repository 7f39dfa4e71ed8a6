"""Requests from 100,000 spans beside plain SQL and pandas, drift beside scipy, a whole report, and how fast a monitor scores.

Alternatives run in turn with ours, several times; medians are shown.
"""

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from traffic_for_tests import fill

import llmops_nb as ops
from llmops_nb.observability import drift
from llmops_nb.observability.scores import find_scorers
from llmops_nb.watching import look

TRACES, ROUNDS = 25_000, 5
SQL = """SELECT trace_id, max(CASE WHEN parent_id IS NULL THEN name END), max(model), min(start_ns),
                max(CASE WHEN parent_id IS NULL THEN duration_ns END), max(CASE WHEN parent_id IS NULL THEN status END),
                sum(input_tokens), sum(output_tokens), sum(cost), max(CASE WHEN parent_id IS NULL THEN length(input) END),
                max(CASE WHEN parent_id IS NULL THEN length(output) END) FROM spans GROUP BY trace_id"""


def compare(*ways: Callable[[], Any]) -> list[float]:
    """Median seconds of each way, taken in turn."""
    for way in ways:
        way()
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for place, way in enumerate(ways):
            started = time.perf_counter()
            way()
            times[place].append(time.perf_counter() - started)
    return [statistics.median(column) for column in times]


def line(label: str, seconds: float, note: str = "") -> None:
    print(f"  {label:52}{seconds * 1000:9.1f}   {note}")


def reading(ws: ops.Workspace) -> None:
    connection = sqlite3.connect(ws.path / "records.db")

    def with_pandas() -> pd.DataFrame:
        table = pd.read_sql("SELECT * FROM spans", connection)
        sums = ["input_tokens", "output_tokens", "cost"]
        used = table.groupby("trace_id").agg({"model": "max", **dict.fromkeys(sums, "sum")})
        return table[table.parent_id.isna()].drop(columns=["model", *sums]).join(used, on="trace_id").sort_values("start_ns")

    ours, sql, pandas = compare(ops.monitor.requests, lambda: connection.execute(SQL).fetchall(), with_pandas)
    assert abs(1 - ops.monitor.requests().cost.sum() / with_pandas().cost.sum()) < 1e-9
    print(f"one row a request from {4 * TRACES:,} spans, milliseconds")
    line("plain sqlite3, rows as tuples, no filter", sql)
    line("pandas: read the table, group by trace", pandas, f"{pandas / ours:.1f}x ours")
    line("ours, a DataFrame", ours, f"{ours / sql:.2f}x plain SQL")
    report, page = compare(lambda: ops.monitor.report(ws), lambda: ops.monitor.report(ws, "1h"))
    print("a whole report: figures, groups, drift, new questions, requests worth a look; milliseconds")
    line("over all of them", report)
    line("over the last hour, against the hour before", page)


def drifting() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 0.5, 500), rng.lognormal(0.1, 0.5, 500)

    def scipys() -> Any:
        return stats.permutation_test((a, b), lambda x, y: stats.ks_2samp(x, y, method="asymp").statistic, n_resamples=99, rng=1)

    ours, theirs = compare(lambda: drift.numbers("latency", a, b), scipys)
    print("Kolmogorov-Smirnov with a permutation p-value, 500 against 500, milliseconds")
    line("scipy.stats.permutation_test, 99 shuffles", theirs)
    line(f"ours, {drift.SHUFFLES} shuffles", ours, f"{theirs / 99 / (ours / drift.SHUFFLES):.0f}x as many shuffles a second")


def scoring(ws: ops.Workspace) -> None:
    found = find_scorers(["groundedness"])
    started = time.perf_counter()
    done = look(ws, "bench", found, 0.1)
    took = time.perf_counter() - started
    print(f"scoring {len(done):,} requests by groundedness: {len(done) / took:,.0f} a second")
    started = time.perf_counter()
    look(ws, "bench", found, 0.1)
    print(f"finding, without its position, that nothing is left to do: {time.perf_counter() - started:.2f} s")
    job = ops.monitor.watch("bench-watch", sample=1, every=0.2)
    job.wait_for("ready", 60)
    waits = []
    for number in range(5):
        fill(ws, 1, seed=1000 + number)
        started = time.perf_counter()
        while ws.records.rows("SELECT count(*) AS n FROM scores WHERE id LIKE 'monitor:bench-watch:%'")[0]["n"] <= number:
            time.sleep(0.01)
        waits.append(time.perf_counter() - started)
    job.stop()
    print(f"a request is scored {statistics.median(waits):.2f} s after its trace arrived (looking every 0.2 s)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ops.Workspace(f"{folder}/desk") as workspace:
        fill(workspace, TRACES, 6 * 3600)
        reading(workspace)
        drifting()
        scoring(workspace)
