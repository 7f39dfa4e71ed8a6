"""Maps over many items: threads, tasks, processes; killed, interrupted, resumed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from llmops_nb.compute.mapping import Interrupted, map_items, stream_items
from llmops_nb.compute.workers import WorkerError
from llmops_nb.errors import InputError, MissingExtra, OpsError
from llmops_nb.observability.tracing import flush, trace


def square(n):
    return n * n


def fall_over(n):
    if n % 3 == 1:
        os._exit(7)
    if n % 3 == 2:
        raise ValueError(f"not {n}")
    return os.getpid()


async def wait_and_square(n):
    await asyncio.sleep(0.001)
    if n == 13:
        raise ValueError("unlucky")
    return n * n


@pytest.mark.parametrize(
    ("fn", "how"),
    [
        (square, "threads"),
        (wait_and_square, "threads"),
        (wait_and_square, "asyncio"),
        (square, "processes"),
        (lambda n: n * n, "processes"),
        (lambda n: wait_and_square(n), "threads"),
    ],
)
def test_all_ways_give_the_same(fn, how):
    outcomes = map_items(fn, range(10), how=how, concurrency=3)
    assert [o.value for o in outcomes] == [n * n for n in range(10)] and [o.index for o in outcomes] == list(range(10))


def test_an_error_belongs_to_its_item():
    outcomes = map_items(wait_and_square, range(20))
    assert [o.index for o in outcomes if o.error] == [13] and isinstance(outcomes[13].error, ValueError) and outcomes[14].value == 196


def test_a_dead_worker_is_its_items_error_and_nobody_elses():
    start = time.monotonic()
    outcomes = map_items(fall_over, range(9), how="processes", concurrency=3)
    assert time.monotonic() - start < 20
    for o in outcomes:
        expected = (type(None), WorkerError, ValueError)[o.index % 3]
        assert isinstance(o.error, expected), o
    assert "exit code 7" in str(outcomes[1].error)


def test_killed_worker_from_outside():
    def victim(n):
        if n == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    assert [type(o.error).__name__ for o in map_items(victim, range(3), how="processes", concurrency=2)] == [
        "NoneType",
        "WorkerError",
        "NoneType",
    ]


def test_what_cannot_travel_is_said():
    outcomes = map_items(lambda n: threading.Lock(), [1], how="processes")
    assert "Lock" in str(outcomes[0].error) or "pickle" in str(outcomes[0].error)
    assert isinstance(map_items(lambda _: (_ for _ in ()).throw(InputError("odd", given=1)), [1], how="processes")[0].error, OpsError)


def test_functions_of_a_script_need_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from llmops_nb.compute.mapping import map_items\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Row: n: int\n"
        "step = 3\n"
        "def fn(row): print('noise'); return Row(row.n + step)\n"
        "outcomes = map_items(fn, [Row(1), Row(2)], how='processes')\n"
        "print([isinstance(o.value, Row) and o.value.n or o.error for o in outcomes])\n"
    )
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "[4, 5]", out.stderr


def test_look_ahead_is_bounded():
    taken = []

    def endless():
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    for count, _ in enumerate(stream_items(square, endless(), concurrency=4)):
        assert len(taken) <= count + 6
        if count == 50:
            break


def test_concurrency_is_bounded():
    now, most, lock = 0, 0, threading.Lock()

    def busy(_):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    map_items(busy, range(40), concurrency=5)
    assert most == 5


@pytest.mark.parametrize("fn", [square, wait_and_square])
def test_spans_inside_nest_under_the_span_around(fn, tmp_path):
    from llmops_nb.storage.workspace import Workspace

    with Workspace(tmp_path / "ws") as ws:
        with trace("around") as around:
            map_items(trace("inside")(fn), range(5))
        flush()
        parents = ws.records.rows("SELECT parent_id, trace_id FROM spans WHERE name = 'inside'")
        assert len(parents) == 5 and {p["parent_id"] for p in parents} == {around.span_id}


def test_ray_says_what_to_install():
    try:
        import ray
    except ImportError:
        with pytest.raises(MissingExtra, match="ray"):
            map_items(square, [1], how="ray")
    else:
        try:
            assert [o.value for o in map_items(square, [1, 2], how="ray")] == [1, 4]
        finally:
            ray.shutdown()  # the next test that wants a cluster starts its own


def test_from_inside_the_background_loop_is_refused_not_hung():
    async def inside(_):
        return map_items(square, [1])

    assert "wait for itself" in str(map_items(inside, [1])[0].error)


def test_resume_runs_only_what_is_missing(tmp_path):
    calls = []

    def fn(row):
        calls.append(row["id"])
        if row["id"] == 3 and calls.count(3) == 1:
            raise RuntimeError("once")
        return row["id"] * 10

    rows, path = [{"id": n} for n in range(6)], tmp_path / "out" / "map.jsonl"
    map_items(fn, rows[:4], resume=path, key=lambda row: row["id"])
    outcomes = map_items(fn, rows, resume=path, key=lambda row: row["id"])
    assert [o.value for o in outcomes] == [0, 10, 20, 30, 40, 50] and sorted(calls) == [0, 1, 2, 3, 3, 4, 5]


def test_kill_minus_nine_and_run_again(tmp_path):
    code = textwrap.dedent("""
        import sys, time
        from llmops_nb.compute.mapping import map_items
        def slow(n):
            with open(sys.argv[2], "a") as log: log.write(f"{n}\\n")
            time.sleep(0.01)
            return n
        map_items(slow, range(200), concurrency=4, resume=sys.argv[1], on_result=lambda o: print(o.index, flush=True))
        print("done", flush=True)
    """)
    path, log, reported = tmp_path / "map.jsonl", tmp_path / "log", []
    for kill in (40, 40, None):
        child = subprocess.Popen([sys.executable, "-c", code, str(path), str(log)], stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            reported.append(line.strip())
            if kill is not None and len(reported) % 40 == 0 and len(reported) > 20:
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
        rest = child.stdout.read().split()
        reported += rest
    saved = [json.loads(line)["value"] for line in path.read_text().splitlines() if line.endswith("}")]
    assert "done" in reported and sorted(saved) == list(range(200)), "each saved once"
    started = [int(n) for n in log.read_text().split()]
    assert len(started) <= 200 + 2 * 8  # only what was under way when it was killed ran twice


@pytest.mark.parametrize("how", ["threads", "processes", "asyncio"])
def test_interrupting_keeps_what_is_done(how, tmp_path):
    code = textwrap.dedent(f"""
        import asyncio, os, signal, sys, threading, time
        from llmops_nb.compute.mapping import Interrupted, map_items
        def slow(n):
            time.sleep(0.01 if n < 5 else 30)
            return n
        async def aslow(n):
            await asyncio.sleep(0.01 if n < 5 else 30)
            return n
        done = []
        def count(o):
            done.append(o)
            if len(done) == 5: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            map_items(aslow if {how!r} == "asyncio" else slow, range(50), how={how!r}, concurrency=4, on_result=count)
        except Interrupted as error:
            print(sorted(o.value for o in error.outcomes))
    """)
    script = tmp_path / "script.py"
    script.write_text(code)
    start = time.monotonic()
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=25, check=True)
    assert out.stdout.strip() == "[0, 1, 2, 3, 4]" and time.monotonic() - start < 20, out.stderr


def test_workers_go_when_their_parent_is_killed(tmp_path):
    code = textwrap.dedent("""
        import os, sys, time
        from llmops_nb.compute.mapping import map_items
        folder = sys.argv[1]
        def tell(n):
            open(os.path.join(folder, str(os.getpid())), "w").close()
            time.sleep(0.2)
            return n
        map_items(tell, range(1000), how="processes", concurrency=2)
    """)
    script = tmp_path / "script.py"
    script.write_text(code)
    pids = tmp_path / "pids"
    pids.mkdir()
    child = subprocess.Popen([sys.executable, str(script), str(pids)])
    deadline = time.monotonic() + 15
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.wait()
    time.sleep(2.5)
    stats = [Path(f"/proc/{p.name}/stat") for p in pids.iterdir()]
    alive = [str(stat) for stat in stats if stat.exists() and stat.read_text().split()[2] != "Z"]
    assert len(stats) == 2 and alive == []


def test_interrupted_is_a_keyboard_interrupt():
    assert issubclass(Interrupted, KeyboardInterrupt)
