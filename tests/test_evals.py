"""Evaluations: every row accounted for, killed and continued, statistics against scipy, bad input."""

import asyncio
import json
import random

import pandas as pd
import pytest
from conftest import kill, start

import llmops_nb as ops
from llmops_nb.errors import InputError, NotFound, StorageError
from llmops_nb.observability.scores import SCORERS, Output, as_score, estimate, find_scorers, paired_difference, t_quantile

ROWS = [{"id": f"r{n}", "input": f"question {n}", "expected": str(n)} for n in range(60)]
SLOW = """
    import sys, time
    import llmops_nb as ops
    ops.Workspace(sys.argv[1])
    calls = open(sys.argv[2], "a")

    def task(question):
        print(question, file=calls, flush=True)
        time.sleep(0.05)
        return question.split()[1]

    rows = [{"id": f"r{n}", "input": f"question {n}", "expected": str(n)} for n in range(60)]
    run = ops.evals.evaluate(task, rows, ["exact_match", "token_f1"], name="slow", concurrency=4, )
    print(run.id, len(run.results), len(run.scores), run.summary()["mean"][0])
"""


@pytest.mark.parametrize("moment", [5, 25])
def test_kill_and_run_again_repeats_at_most_the_calls_in_flight(tmp_path, moment):
    import time

    calls = tmp_path / "calls"
    child = start(SLOW, tmp_path / "w", calls)
    while not calls.exists() or len(calls.read_text().splitlines()) < moment:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    kill(child)
    with ops.Workspace(tmp_path / "w"):
        killed = ops.evals.runs().iloc[0]
        assert killed.status == "running" and killed.examples >= moment - 4 - 1
    child = start(SLOW, tmp_path / "w", calls)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out.split() == [killed.id, "60", "120", "1.0"], "the same experiment, every row once"
    assert 60 <= len(calls.read_text().splitlines()) <= 60 + 4
    with ops.Workspace(tmp_path / "w"):
        assert list(ops.evals.runs().status) == ["done"]


def test_two_kernels_that_run_the_same_cell_do_not_mix(tmp_path):
    children = [start(SLOW, tmp_path / "w", tmp_path / "calls") for _ in range(2)]
    ids = {child.communicate(timeout=90)[0].split()[0] for child in children}
    with ops.Workspace(tmp_path / "w"):
        assert len(ids) == 2 and set(ops.evals.runs().id) == ids and set(ops.evals.runs().examples) == {60}


def test_a_changed_task_dataset_or_scorer_starts_a_new_experiment(ws):
    def stopping(suffix):
        def task(question):
            if question.endswith("3"):
                raise KeyboardInterrupt
            return question + suffix

        return task

    def attempt(task, rows=ROWS[:5], scorers="exact_match"):
        with pytest.raises(KeyboardInterrupt):
            ops.evals.evaluate(task, rows, scorers, name="x", concurrency=1)
        return ops.evals.runs().id.nunique()

    assert [attempt(stopping("a")), attempt(stopping("a"))] == [1, 1]
    assert attempt(stopping("b")) == 2
    assert attempt(stopping("a"), [{**row, "expected": "changed"} for row in ROWS[:5]]) == 3
    assert attempt(stopping("a"), scorers="token_f1") == 4
    assert attempt(stopping("a"), scorers=lambda output, example: 1) == 5
    assert attempt(stopping("a"), scorers=lambda output, example: 0) == 6


def test_every_row_is_accounted_for_whatever_goes_wrong(ws):
    class Answer:
        def __init__(self, text):
            self.text, self.cost, self.sources = text, 0.5, None

    def task(question):
        n = int(question.split()[1])
        if n % 5 == 1:
            raise ConnectionError("429")
        return None if n % 5 == 2 else Answer(str(n)) if n % 5 == 3 else str(n)

    def judge(output, example):
        if example["id"] == "r0":
            raise ValueError("prose instead of JSON")
        return float("nan") if example["id"] == "r5" else len(output) > 1

    rows = [{**row, "expected": None} if row["id"] == "r9" else row for row in ROWS]
    run = ops.evals.evaluate(task, pd.DataFrame(rows), ["exact_match", judge, "groundedness", "latency"], concurrency=8)
    summary = run.summary().set_index("scorer")
    assert (summary[["scored", "failed", "not_applicable"]].sum(axis=1) == 60).all()
    assert (
        summary.loc["exact_match", ["scored", "failed", "not_applicable"]].tolist() == [35, 24, 1]
        and summary.loc["exact_match", "mean"] == 1
    )
    assert (
        summary.loc["judge", "failed"] == 26
        and summary.loc["groundedness", "not_applicable"] == 36
        and pd.isna(summary.loc["groundedness", "mean"])
    )
    assert run.results.error.notna().sum() == 24 and run.results.cost.sum() == 6 and list(run.results.id) == [row["id"] for row in ROWS]
    failed = run.scores[(run.scores.scorer == "judge") & (run.scores.id == "r0")].iloc[0]
    assert (
        failed.state == "failed"
        and failed.explanation == "ValueError: prose instead of JSON"
        and run.scores[run.scores.state == "scored"].value.notna().all()
    )
    assert "60 examples, 24 failed" in repr(run)


def test_async_tasks_and_async_callers(ws):
    async def task(question):
        await asyncio.sleep(0.01)
        assert question != "question 2"
        return question.split()[1]

    async def caller():
        return await ops.evals.aevaluate(task, ROWS[:10], "exact_match")

    run = asyncio.run(caller())
    assert run.summary()["scored"][0] == 9 and run.results.error.notna().sum() == 1 and run.results.trace_id.nunique() == 10


def test_bad_input_is_refused_before_any_call(ws):
    calls = []
    good = dict(task=calls.append, dataset=ROWS[:3], scorers="exact_match")
    for bad, message in [
        ({"dataset": []}, "empty"),
        ({"dataset": "missing"}, "No dataset"),
        ({"dataset": [{"id": 1}]}, "without an input"),
        ({"dataset": ["text"]}, "not an example"),
        ({"dataset": ROWS + ROWS[:1]}, "same id"),
        ({"dataset": [{"input": "a"}, {"input": "a"}]}, "same id"),
        ({"scorers": []}, "at least one scorer"),
        ({"scorers": "exact"}, "exact_match"),
        ({"scorers": 3}, "name or a function"),
        ({"scorers": ["latency", "latency"]}, "Two scorers"),
        ({"scorers": "retrieval_hit"}, "needs the column 'gold'"),
        ({"task": "app"}, "something to call"),
        ({"concurrency": 0}, "at least one"),
    ]:
        with pytest.raises((InputError, NotFound), match=message):
            ops.evals.evaluate(**(good | bad))
    assert calls == []
    with pytest.raises(NotFound, match="No run"):
        ops.evals.load("nothing")


def test_a_dataset_is_text_that_people_may_break(ws):
    ops.evals.save_dataset("basics", [{"input": "a{{b}}\u2028é", "tags": ["x"], "score": 1}])
    path = ws.path / "datasets" / "basics.jsonl"
    assert ops.evals.dataset("basics").input[0] == "a{{b}}\u2028é"
    path.write_text(path.read_text() + '{"id": "broken", \n')
    with pytest.raises(InputError, match="Line 2 of basics.jsonl is not JSON"):
        ops.evals.dataset("basics")
    for name in ("../x", "a/b", ""):
        with pytest.raises(InputError, match="plain word"):
            ops.evals.save_dataset(name, ROWS)


def test_a_case_from_a_trace_is_added_once(ws):
    @ops.trace
    def app(question, k=5):
        with ops.trace("inner", input="not this"):
            return "a bad answer"

    with ops.trace("outer", input="What is it?") as span:
        app("What is it?", k=3)
    first = ops.evals.add_case("bad", span.trace_id)
    assert first["input"] == "What is it?" and first["expected"] is None and first["provenance"]["trace_id"] == span.trace_id
    before = (ws.path / "datasets/bad.jsonl").read_bytes()
    ops.evals.add_case("bad", span.trace_id)
    assert (ws.path / "datasets/bad.jsonl").read_bytes() == before
    ops.evals.add_case("bad", span.trace_id, expected="right", gold="topics/it")
    ops.evals.add_case("bad", span.trace_id)
    assert ops.evals.dataset("bad")[["expected", "gold"]].values.tolist() == [["right", "topics/it"]]
    with pytest.raises(NotFound, match="No trace"):
        ops.evals.add_case("bad", "0" * 32)


def test_a_full_disk_stops_the_run_and_it_continues_later(ws, monkeypatch):
    real, calls = ws.records.write, []

    def full(table, rows):
        if table == "results" and len(calls) > 10:
            raise StorageError("The records could not be written: database or disk is full.", given="records.db")
        return real(table, rows)

    def task(question):
        calls.append(question)
        return question.split()[1]

    monkeypatch.setattr(ws.records, "write", full)
    with pytest.raises(StorageError, match="disk is full"):
        ops.evals.evaluate(task, ROWS, "exact_match", concurrency=2)
    monkeypatch.setattr(ws.records, "write", real)
    stored, before = ops.evals.runs().examples[0], len(calls)
    calls_before = list(calls)
    run = ops.evals.evaluate(task, ROWS, "exact_match", concurrency=2)
    assert len(run.results) == 60 and len(calls) - before == 60 - stored and len(calls_before) < 20


def test_pairs_are_made_by_id_and_input(ws):
    a = ops.evals.evaluate(lambda q: q.split()[1], ROWS[:40], ["exact_match", "latency"], name="a")
    changed = [{**row, "input": "other 10"} if row["id"] == "r10" else row for row in ROWS[5:50]]
    b = ops.evals.evaluate(lambda q: "0" if "1" in q else q.split()[1], changed, ["exact_match", "latency"], name="b")
    found = ops.evals.compare(a, b.id)
    assert found.unpaired == (["r0", "r1", "r2", "r3", "r4", "r10"], ["r10"] + [f"r{n}" for n in range(40, 50)])
    row = found.differences.set_index("scorer").loc["exact_match"]
    assert row.n == 34 and row.verdict == "worse" and row.changed == len(found.flips) and (found.flips.gain == -1).all()
    assert "worse" in found._repr_mimebundle_()["text/html"] and "6 only in a" in found._repr_mimebundle_()["text/html"]


def test_intervals_equal_scipy():
    from scipy import stats

    for df in (1, 2, 3, 4, 7, 30, 59, 200, 201, 500, 100_000):
        for p in (0.9, 0.975, 0.995):
            assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9), (p, df)
    draw = random.Random(3)
    for n in (2, 5, 40, 300):
        values = [draw.random() for _ in range(n)]
        low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        found = estimate(values)
        assert (found.low, found.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))
        right = draw.randint(0, n)
        wilson = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        found = estimate([1.0] * right + [0.0] * (n - right))
        assert (found.low, found.high) == (pytest.approx(wilson.low, abs=1e-12), pytest.approx(wilson.high, abs=1e-12))
        other = [draw.random() for _ in range(n)]
        reference = stats.ttest_rel(other, values).confidence_interval(0.95)
        paired = paired_difference(values, other)
        assert (paired.low, paired.high) == (pytest.approx(reference.low, rel=1e-8), pytest.approx(reference.high, rel=1e-8))


def test_verdicts_on_yes_or_no_agree_with_the_exact_test():
    """Where the interval says better or worse, McNemar's exact test must not say that it is plainly chance."""
    from scipy import stats

    for n in (20, 60, 300):
        for up in range(20):
            for down in range(20 - up):
                if up + down > n:
                    continue
                found = paired_difference([0] * up + [1] * (n - up), [1] * up + [0] * down + [1] * (n - up - down))
                exact = stats.binomtest(up, up + down).pvalue if up + down else 1.0
                if found.verdict != "tied":
                    assert exact < 0.1 and (found.verdict == "better") == (up > down), (n, up, down, exact)
                elif exact < 0.02:
                    raise AssertionError((n, up, down, exact))


def test_edges_of_the_statistics():
    assert paired_difference([], []).mean is None and paired_difference([0.2], [0.4]).low is None
    assert paired_difference([1, 1], [1, 1]).verdict == "tied" and paired_difference([0.1] * 5, [0.2] * 5).verdict == "tied"
    assert paired_difference([0.1] * 9, [0.2] * 9, better="lower").verdict == "worse"
    with pytest.raises(InputError, match="equal numbers"):
        paired_difference([1], [1, 2])
    for value, state in ((True, "scored"), (3, "scored"), ("3", "failed"), (float("inf"), "failed"), (None, "failed"), ([1], "failed")):
        assert as_score(value).state == state


def test_scorers_on_awkward_text():
    example = {"id": "1", "input": "?", "expected": ["The Answer!", "42"], "gold": ["d2", "d9"]}
    assert SCORERS["exact_match"](" the answer ", example).value == 1 and SCORERS["exact_match"]("", example).value == 0
    assert SCORERS["contains"]("It is 420.", example).value == 0 and SCORERS["contains"]("It is 42.", example).value == 1
    assert SCORERS["token_f1"]("", {**example, "expected": "the"}).value == 1, "both are empty after normalisation"

    class Reply:
        text = "Cats sleep all day. Dogs fly to the moon."
        sources = pd.DataFrame(
            {
                "id": ["d1#0", "x", "d1#4"],
                "text": ["Cats sleep all day long.", "Dogs bark.", ""],
                "metadata": [{"doc_id": "d1"}, {"doc_id": "d2"}, None],
            }
        )

    output = Output(Reply())
    assert SCORERS["groundedness"](output, example).value == 0.5 and "Dogs fly" in SCORERS["groundedness"](output, example).explanation
    assert (
        SCORERS["reciprocal_rank"](output, example).value == 0.5
        and SCORERS["retrieval_hit"](output, {**example, "gold": "nope"}).value == 0
    )
    Reply.sources = Reply.sources.head(0)
    assert SCORERS["groundedness"](Output(Reply()), example).value == 0 and SCORERS["retrieval_hit"](Output(Reply()), example).value == 0
    assert SCORERS["groundedness"]("no sources", example).state == "not_applicable"
    Reply.sources = pd.DataFrame({"id": ["a"], "text": ["Cats sleep all day long."]})
    Reply.text = "Cats sleep all day. [1] They sleep long. [1, 2]"
    assert SCORERS["groundedness"](Output(Reply()), example).value == 1, "citations are not claims"
    Reply.text = "The context does not answer this question."
    assert SCORERS["groundedness"](Output(Reply()), example).state == "not_applicable"
    assert json.loads(Output({"a": 1})) == {"a": 1} and find_scorers("latency")[0].better == "lower"
