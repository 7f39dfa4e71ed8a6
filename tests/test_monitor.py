"""What a monitor must survive: kills, full disks, clocks that go backwards, receivers that are down; and its statistics beside scipy's."""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import finish, start
from test_widgets import ALLOWED, HOSTILE, Tags
from traffic_for_tests import fill, spans

import llmops_nb as ops
from llmops_nb.alerts import Alert, AlertLog, consider, deliver
from llmops_nb.errors import InputError, StorageError
from llmops_nb.observability import drift, traffic
from llmops_nb.observability.scores import estimate, find_scorers
from llmops_nb.watching import look


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer within the time."""
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return answer


def scored(ws: ops.Workspace) -> Counter:
    return Counter(row["trace_id"] for row in ws.records.rows("SELECT trace_id FROM scores WHERE source = 'monitor'"))


def rate(failed: int, n: int) -> Any:
    return estimate([1.0] * failed + [0.0] * (n - failed))


class Receiver:
    """A webhook's other end; refuses while `down`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.down = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not receiver.down:
                    receiver.got.append({**json.loads(body), "key": self.headers["Idempotency-Key"]})
                self.send_response(503 if receiver.down else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


# the process


@pytest.mark.slow
def test_killed_at_random_moments_it_scores_each_request_once_and_alerts_once(ws: ops.Workspace, receiver: Receiver) -> None:
    def patient(output: Any, example: Any) -> float:
        time.sleep(0.004)
        return 0.1

    alert = Alert("patient", below=0.5, window="1h", name="low", webhook=receiver.url)
    job = ops.monitor.watch("desk", [patient, "groundedness"], sample=1, every=0.05, alerts=[alert])
    job.wait_for("ready", 60)
    draw, expected = random.Random(5), 0
    for number in range(5):
        fill(ws, 60, 10, seed=number, failing=0.1)
        expected += 60
        time.sleep(draw.uniform(0.02, 0.6))
        os.kill(job.events("started")[-1]["pid"], signal.SIGKILL)
        until(lambda: job.state == "lost")
        job.resume()
    until(lambda: len(scored(ws)) == expected, 60)
    until(lambda: receiver.got)
    job.stop()
    assert set(scored(ws).values()) == {2}, "every request once by each scorer"
    assert [event["state"] for event in AlertLog(ws.path / "alerts").events()] == ["firing"]
    assert len({event["key"] for event in receiver.got}) == 1, "a receiver can tell that it is the same alert"


def test_started_twice_it_attaches_and_another_of_its_name_is_refused(ws: ops.Workspace) -> None:
    code = """
        import sys, llmops_nb as ops
        ops.Workspace(sys.argv[1])
        print(ops.monitor.watch("desk", sample=float(sys.argv[2]), every=0.1).wait_for("ready")["attempt"])
    """
    both = [start(code, ws.path, 0.5) for _ in range(2)]
    assert [finish(child).strip() for child in both] == ["1", "1"]
    job = ops.jobs.get("desk")
    assert len(job.events("started")) == 1
    with pytest.raises(InputError, match="running, and it is not this one"):
        ops.monitor.watch("desk", sample=0.7, every=0.1)
    job.stop()
    assert job.state == "stopped"


def test_a_clock_that_goes_backwards_and_a_request_that_ends_late_are_not_missed(ws: ops.Workspace) -> None:
    job = ops.monitor.watch("desk", sample=1, every=0.05)
    job.wait_for("ready", 60)
    fill(ws, 20, 10)
    until(lambda: len(scored(ws)) == 20)
    fill(ws, 20, 10, seed=1, end_ns=time.time_ns() - 3 * 365 * 86400 * 10**9)  # three years ago
    unfinished = list(spans(1, 10, seed=2, failing=0))
    ws.records.write("spans", unfinished[1:])  # its steps have ended, the request itself has not
    until(lambda: len(scored(ws)) == 40)
    assert ops.monitor.requests().trace_id.nunique() == 40
    ws.records.write("spans", unfinished[:1])
    until(lambda: len(scored(ws)) == 41)
    job.stop()
    assert set(scored(ws).values()) == {1}


def test_a_full_disk_is_waited_out(small_disk: Callable[..., Path], tmp_path: Path) -> None:
    disk = small_disk("8m")
    asked, go = tmp_path / "asked", tmp_path / "go"

    def waiting(output: Any, example: Any) -> int:
        asked.touch()
        while not go.exists():
            time.sleep(0.02)
        return 1

    with ops.Workspace(disk / "ws") as ws:
        job = ops.monitor.watch("desk", [waiting], sample=1, every=0.1)
        job.wait_for("ready", 60)
        fill(ws, 300, 10)
        until(asked.exists)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(os.urandom(4096))
        go.touch()
        time.sleep(1)  # several looks at a disk that takes nothing
        assert job.state == "running" and not scored(ws)
        ballast.unlink()
        until(lambda: len(scored(ws)) == 300)
        assert set(scored(ws).values()) == {1}
        job.stop()


# scoring


def test_a_scorer_that_raises_fails_alone_and_a_failed_request_has_no_score(ws: ops.Workspace) -> None:
    def broken(output: Any, example: Any) -> float:
        raise RuntimeError("no such model <b>")

    fill(ws, 50, failing=0.2)
    found = ops.monitor.check([broken, "groundedness"])
    rows = ws.records.frame("SELECT * FROM scores")
    failed = set(ops.monitor.requests().query("status == 'error'").trace_id)
    assert len(found.scored) == 50 and len(rows) == 100 and 0 < len(failed) < 50
    assert set(rows[rows.scorer == "broken"].state) == {"failed"}
    grounded = rows[rows.scorer == "groundedness"].set_index("trace_id")
    assert set(grounded[grounded.state == "failed"].index) == failed
    assert grounded.explanation[next(iter(failed))].startswith("the request failed")


def test_only_requests_count(ws: ops.Workspace) -> None:
    @ops.trace("desk", kind="app")
    def desk(question: str) -> str:
        return question.upper()

    desk("live?")
    ops.evals.evaluate(desk, [{"id": "1", "input": "tested?"}], [lambda output, example: 1], name="desk")
    ops.prompts.save("p", "{{ question }}")
    ops.prompts.compare(["p"], models=["local:extractive"], inputs=[{"question": "compared?"}])
    checked = ops.monitor.check(["groundedness", lambda output, example: desk(output) == "X"])
    assert checked.scored == ops.monitor.requests().trace_id.tolist()
    assert len(ops.monitor.requests()) == len(ops.monitor.requests(app="desk")) == 1, "neither tests nor what a scorer asks is traffic"


def test_two_monitors_count_a_request_once(ws: ops.Workspace) -> None:
    from llmops_nb.watching import measured

    fill(ws, 40, failing=0)
    for name in ("one", "two"):
        ops.monitor.check(["groundedness"], name=name)
    assert measured("groundedness", None).n == 40 and len(ops.monitor.report(ws).scores) == 1


def test_the_sample_is_the_same_for_everyone(ws: ops.Workspace) -> None:
    fill(ws, 1000)
    some = look(ws, "a", find_scorers("groundedness"), 0.1)
    assert 60 < len(some) < 140 and set(some) == set(look(ws, "b", find_scorers("groundedness"), 0.1))
    assert set(some) < set(look(ws, "c", find_scorers("groundedness"), 0.3))


# alerts


def test_several_processes_fire_an_alert_once(ws: ops.Workspace) -> None:
    code = """
        import sys
        from pathlib import Path
        from llmops_nb.alerts import Alert, AlertLog, consider
        from llmops_nb.observability.scores import estimate
        for _ in range(50):
            consider(Alert("error_rate", above=0.1), estimate([1.0] * 30 + [0.0] * 30), AlertLog(Path(sys.argv[1])))
    """
    children = [start(code, ws.path / "alerts") for _ in range(3)]
    for child in children:
        finish(child)
    assert len(AlertLog(ws.path / "alerts").events()) == 1


def test_a_receiver_that_is_down_gets_everything_later_in_order(ws: ops.Workspace, receiver: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOOK", receiver.url)
    log, addresses = AlertLog(ws.path / "alerts"), {"dead": "http://127.0.0.1:9/", "good": "env:HOOK"}
    hooked = [Alert("error_rate", above=0.1, name=name, webhook=url) for name, url in addresses.items()]
    receiver.down = True
    for failed in (30, 0, 30):
        for alert in hooked:
            consider(alert, rate(failed, 60), log)
        assert "503" in (deliver(hooked, log) or "")
    receiver.down = False
    with log.said.open("a") as file:
        file.write('{"id": "torn')  # a killed writer
    assert "good" not in (deliver(hooked, log) or "") and deliver(hooked[1:], log) is None
    assert [event["state"] for event in receiver.got] == ["firing", "resolved", "firing"]
    consider(hooked[1], rate(0, 60), log)
    deliver(hooked[1:], log)
    assert receiver.got[-1]["state"] == "resolved" and len(receiver.got) == 4
    assert receiver.url not in "".join(file.read_text() for file in log.folder.glob("*.jsonl"))


def test_a_receiver_that_is_down_does_not_stop_the_monitor(ws: ops.Workspace, receiver: Receiver) -> None:
    receiver.down = True
    alert = Alert("error_rate", above=0.05, window="1h", webhook=receiver.url)
    job = ops.monitor.watch("desk", sample=1, every=0.05, alerts=[alert])
    job.wait_for("ready", 60)
    fill(ws, 60, 60, failing=0.5)
    assert "503" in job.wait_for("undelivered")["why"]
    fill(ws, 20, 60, seed=1)
    until(lambda: len(scored(ws)) == 80)
    receiver.down = False
    until(lambda: receiver.got)
    job.stop()
    assert len(receiver.got) == 1 and len(job.events("undelivered")) == 1


def test_an_alert_needs_certainty_both_ways(ws: ops.Workspace) -> None:
    log, alert = AlertLog(ws.path / "alerts"), Alert("error_rate", above=0.1, minimum=30)
    said = [event.state for event in (consider(alert, found, log) for found in
            (rate(15, 20), rate(6, 40), rate(14, 60), rate(60, 60), rate(7, 60), rate(3, 60), rate(0, 60), rate(2, 60))) if event]
    assert said == ["firing", "resolved"]


def test_errors_reach_an_alert_from_live_traffic(ws: ops.Workspace, receiver: Receiver) -> None:
    alerts = [Alert("error_rate", above=0.1, webhook=receiver.url), Alert("latency_p95", above=0.01), Alert("cost", above=5)]
    fill(ws, 200, 600, failing=0.3)
    checked = ops.monitor.check(["groundedness"], alerts=alerts)
    assert [event.metric for event in checked.said] == ["error_rate", "latency_p95"] and checked.undelivered is None
    assert receiver.got[0]["low"] > 0.1 and ops.monitor.check(["groundedness"], alerts=alerts).said == []


# reports


def test_nothing_to_report_says_what_to_do(ws: ops.Workspace) -> None:
    page = ops.monitor.report(ws)._repr_mimebundle_()["text/html"]
    assert "No finished requests" in page and ops.monitor.report(ws, "1h").requests.empty
    ws.records.write("spans", list(spans(1, 10))[1:])
    assert ops.monitor.report(ws).requests.empty, "a request that has not ended is not known yet"
    fill(ws, 1)
    assert "too few" in set(ops.monitor.report(ws).drift.verdict)


def test_hostile_text_is_inert_in_the_report(ws: ops.Workspace, tmp_path: Path) -> None:
    rows = list(spans(len(HOSTILE), 60, failing=0.5))
    for place, text in enumerate(HOSTILE):
        for row in rows[4 * place: 4 * place + 4]:
            row.update(name=text[:200] or "x", input=json.dumps(text[:5000]), model=text[:100] or None)
            row.update(error=text[:5000] if row["error"] else None)
    ws.records.write("spans", rows)
    for text, trace_id in zip(HOSTILE, ops.monitor.requests().trace_id, strict=True):
        ops.monitor.flag(trace_id, text[:5000])
    ops.monitor.check([type("Scorer", (), {"__call__": lambda self, output, example: 0, "__name__": HOSTILE[0]})()], sample=1)
    made = ops.monitor.report(ws)
    tags = Tags()
    tags.feed(made._repr_mimebundle_()["text/html"])
    assert tags.seen <= ALLOWED | {"section", "h3", "figure", "figcaption", "rect", "title", "polyline", "dl", "dt", "dd"}
    assert not {name for name in tags.attributes if name.startswith("on")} and not tags.attributes & {"src", "href", "action"}
    page = made.save(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page.lower().replace("&lt;script", "") and len(page) < 1_000_000


def test_a_report_is_read_while_others_write(ws: ops.Workspace) -> None:
    done = threading.Event()

    def write() -> None:
        for number in range(1000):
            if done.is_set():
                return
            fill(ws, 50, seed=number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: len(ops.monitor.requests()))
        sizes = [len(ops.monitor.report(ws).requests) for _ in range(4)]
    finally:
        done.set()
        writer.join()
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_window_is_compared_with_the_one_before(ws: ops.Workspace) -> None:
    now = time.time_ns()
    fill(ws, 300, 3600, end_ns=now - 3600 * 10**9)
    fill(ws, 300, 3599, seed=1, slower=2, end_ns=now, failing=0.2)
    made = ops.monitor.report(ws, "1h")
    assert len(made.requests) in (299, 300, 301) and set(made.drift[made.drift.verdict == "drift"].what) == {"latency", "error_rate"}
    earlier = ops.monitor.report(ws, "1h", reference=(pd.Timestamp(now, tz="UTC") - pd.Timedelta("1h"), pd.Timestamp(now, tz="UTC")))
    assert "drift" not in set(earlier.drift.verdict), "the same window beside itself"


def test_only_one_view_of_a_cell_redraws_and_closing_the_workspace_ends_it(ws: ops.Workspace) -> None:
    pytest.importorskip("anywidget")
    fill(ws, 30)
    first = ops.monitor.dashboard(ws, "all", every=0.05)
    second = ops.monitor.dashboard(ws, "all", every=0.05)
    until(lambda: second.facts.get("requests") == 30)
    fill(ws, 30, seed=9)
    until(lambda: second.facts["requests"] == 60 and first._ended.is_set())  # a look that was under way may still have been drawn
    fill(ws, 30, seed=10)
    until(lambda: second.facts["requests"] == 90)
    assert first.facts.get("requests", 0) <= 60
    ws.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "llmops-monitor-view"])


def test_without_live_views_the_dashboard_is_a_picture(ws: ops.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops_nb.widgets import monitor as drawn

    fill(ws, 30)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    drawn._live_class.cache_clear()
    try:
        picture = ops.monitor.dashboard(ws, "all")
    finally:
        drawn._live_class.cache_clear()
    trace_id = ops.monitor.requests().trace_id[3]
    picture.flag(trace_id, "odd")
    assert "30</b> requests" in picture._repr_html_() and picture.window == "all"
    assert ops.monitor.report(ws).notable.trace_id[0] == trace_id
    ops.monitor.flag(trace_id, wrong=False)
    assert trace_id not in set(ops.monitor.report(ws).notable.query("reasons == 'flagged'").trace_id)


def test_attributes_that_are_no_json_do_no_harm(ws: ops.Workspace) -> None:
    rows = list(spans(3, 10, failing=0))
    rows[0]["attributes"] = "{gen_ai.response.time_to_first_chunk"
    rows[6]["attributes"] = '{"gen_ai.response.time_to_first_chunk": 0.25}'
    ws.records.write("spans", rows)
    assert ops.monitor.requests().first_token_s.round(3).tolist()[1] == 0.25 and ops.monitor.requests().first_token_s.isna().sum() == 2


# back to data


def test_a_training_row_is_what_training_takes(ws: ops.Workspace) -> None:
    from llmops_nb.compute.chat_tokens import as_messages

    fill(ws, 2, failing=0)
    trace_id = ops.monitor.requests().trace_id[0]
    row = ops.monitor.to_training_row("corrections", trace_id[:16], "Press cancel.")
    assert as_messages(row) == row["messages"] and [message["role"] for message in row["messages"]] == ["user", "assistant"]
    again = ops.monitor.to_training_row("corrections", trace_id, "Press cancel twice.")
    stored = ops.evals.dataset("corrections")
    assert stored.expected.tolist() == ["Press cancel twice."] and stored.messages[0] == again["messages"]
    ops.monitor.to_training_row("corrections", ops.monitor.requests().trace_id[1], "No.")
    assert len(ops.evals.dataset("corrections")) == 2


def test_a_conversation_with_tools_comes_back_as_it_was_and_a_cut_one_is_refused(ws: ops.Workspace) -> None:
    from llmops_nb.observability.conventions import message_parts

    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "",
             "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "In Rome."}]
    rows = list(spans(2, 10, failing=0))
    rows[2]["input"] = json.dumps(message_parts(said))
    rows[6]["input"] = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "long... [12,000 more characters]"}]}])
    ws.records.write("spans", rows)
    first, second = (rows[place]["trace_id"] for place in (0, 4))
    assert ops.monitor.to_training_row("t", first, "Rome.")["messages"] == [*said, {"role": "assistant", "content": "Rome."}]
    with pytest.raises(InputError, match="too long to be recorded whole"):
        ops.monitor.to_training_row("t", second, "Rome.")


def test_an_interrupted_replay_keeps_what_was_answered(ws: ops.Workspace) -> None:
    answered = threading.Event()

    def desk(question: str) -> str:
        if question == "3":
            answered.set()
        return question

    def interrupt() -> None:
        answered.wait(20)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    table = ops.monitor.replay([0, 0.05, 0.1, 0.15, 60], desk, [str(number) for number in range(5)])
    assert table.answer.tolist() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("path", ["", "/v1"])
def test_a_hosted_application_is_asked_watched_and_rated(ws: ops.Workspace, path: str) -> None:
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    host = pytest.importorskip("llmops_nb.host")
    chunks = pd.DataFrame({"id": ["with", "yield"], "text": ["The with statement closes files.", "The yield statement makes a generator."]})
    kb = ops.index.build(chunks, name="kb", embedder="lexical", store="local")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(host.app(ops.apps.RAG(kb)), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        table = ops.monitor.replay([0, 0.05, 0.1], f"http://127.0.0.1:{port}{path}", ["What closes files?", " ", "What makes a generator?"])
    finally:
        server.should_exit = True
        thread.join()
    assert table.status.tolist() == ["ok", "error", "ok"] and "closes files" in table.answer[0]
    assert table.first_token_s[0] <= table.seconds[0]
    known = ops.monitor.requests().query("status == 'ok'")
    assert known.first_token_s.notna().all() and len(known) == 2
    assert path or set(known.trace_id) == set(table.trace_id.dropna())
    ops.monitor.check(["groundedness"])
    assert ops.monitor.report(ws).scores.set_index("scorer").value["groundedness"] == 1


def test_users_application_and_monitor_are_three_processes(ws: ops.Workspace) -> None:
    pytest.importorskip("fastapi")
    chunks = pd.DataFrame({"id": ["with", "yield"], "text": ["The with statement closes files.", "The yield statement makes a generator."]})
    kb = ops.index.build(chunks, name="kb", embedder="lexical", store="local")
    watcher = ops.monitor.watch("desk-watch", ["groundedness"], sample=1, every=0.1)
    watcher.wait_for("ready", 60)
    with ops.deploy.serve(ops.apps.RAG(kb), name="desk") as url:
        table = ops.monitor.replay(ops.monitor.made_up_arrivals(20, 2), url, ["What closes files?", "What makes a generator?"])
        until(lambda: len(scored(ws)) == len(table))
    watcher.stop()
    assert set(table.status) == {"ok"} and len(ops.monitor.requests()) == len(table) and table.first_token_s.notna().all()
    assert ops.monitor.report(ws).scores.value.tolist() == [1.0]


def test_real_arrivals_are_read(shared: Path) -> None:
    from llmops_nb.arrivals import offsets

    times = offsets(shared / "monitor" / "AzureLLMInferenceTrace_code.csv")
    assert len(times) == 8819 and times[0] == 0 and 3430 < times[-1] < 3440 and times == sorted(times)


# statistics, beside scipy's


def test_percentile_intervals_are_the_binomial_ones() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    for n in (1, 5, 20, 59, 60, 299, 1000, 20_000):
        for share in (0.5, 0.95, 0.99):
            values = np.sort(rng.exponential(size=n))
            found = traffic.percentile(values, share)
            assert found.value == np.quantile(values, share, method="inverted_cdf")
            ranks = [None if bound is None else int(np.searchsorted(values, bound)) + 1 for bound in (found.low, found.high)]
            assert ranks[0] is None or stats.binom.cdf(ranks[0] - 1, n, share) <= 0.025 + 1e-9
            assert ranks[1] is None or stats.binom.sf(ranks[1] - 1, n, share) <= 0.025 + 1e-9
            assert (ranks[1] is None) == (stats.binom.cdf(n - 1, n, share) < 0.975 - 1e-9), (n, share, ranks)
            assert ranks[0] is None or stats.binom.cdf(ranks[0], n, share) > 0.025, "no narrower interval would do"


def test_distances_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(1)
    for a, b in ((rng.normal(size=80), rng.normal(0.4, 1, 60)), (rng.integers(0, 4, 90), rng.integers(0, 5, 50))):  # the second is all ties
        found = drift.numbers("x", a, b)
        assert found["distance"] == pytest.approx(stats.ks_2samp(a, b).statistic)
        gap = drift.means("x", a, b)
        exact = stats.permutation_test((a, b), lambda x, y, axis: np.abs(x.mean(axis=axis) - y.mean(axis=axis)), vectorized=True,
                                       n_resamples=9999, alternative="greater", rng=7)
        assert gap["p"] == pytest.approx(exact.pvalue, abs=0.04)
    many = drift.means("x", list(rng.normal(size=3000)), list(rng.normal(0.05, 2, 2000)))
    assert many["p"] < 1 and drift.means("x", [0.0] * 50, [0.0] * 50)["p"] == 1
    texts = [" ".join(rng.choice(["red", "green", "blue", "grey"], 5)) for _ in range(60)]
    counted = drift.word_matrix(texts)
    assert drift.words("w", texts[:30], texts[30:])["distance"] == pytest.approx(
        jensenshannon(counted[:30].sum(axis=0), counted[30:].sum(axis=0), base=2) ** 2, abs=1e-5)


def test_welch_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=3000), rng.normal(0.05, 2, 2000)
    assert drift.means("x", list(a), list(b))["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=1e-3)


def test_adjusted_p_values_are_holms() -> None:
    rows = [{"what": str(place), "measure": "mean", "distance": 1.0, "p": p} for place, p in enumerate([0.01, 0.04, 0.03, 0.005])]
    table = drift.verdicts([*rows, {"what": "few", "measure": "mean"}])
    assert table.p_adjusted[:4].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert table.verdict.tolist() == ["drift", "no drift seen", "no drift seen", "drift", "too few"]


def test_mistakes_are_said_before_anything_runs(ws: ops.Workspace) -> None:
    for mistake, word in ((lambda: ops.monitor.watch("a b"), "plain word"), (lambda: ops.monitor.watch("x", every=0), "pause"),
                          (lambda: ops.monitor.report(ws, "soon"), "length of time"), (lambda: ops.monitor.check(sample=2), "share")):
        with pytest.raises(InputError, match=word):
            mistake()
    with pytest.raises(StorageError, match="report could not be written"):
        ops.monitor.report(ws).save("/proc/no/report.html")
