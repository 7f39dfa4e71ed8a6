"""Jobs under what happens to processes: killed at any moment, started twice, left by their kernel, on a full disk."""

import os
import random
import signal
import time
from pathlib import Path

import jobs_for_tests as functions
import psutil
import pytest
from conftest import finish, kill, start

from llmops_nb.compute import jobs
from llmops_nb.errors import InputError, OpsError

HERE = Path(__file__).parent


def pid_of(job: jobs.Job) -> int:
    return job.events("started")[-1]["pid"]


def end_of(job: jobs.Job, seconds: float = 20) -> str:
    """The state it ends in."""
    deadline = time.monotonic() + seconds
    while (state := job.state) in ("starting", "running"):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.02)
    return state


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends within the time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_killed_at_five_random_moments_it_loses_nothing_it_reported(ws) -> None:
    moments = random.Random(7)
    job = jobs.start(functions.count, {"to": 300, "pause": 0.01}, name="count")
    for _ in range(5):
        job.wait_for("report")
        time.sleep(moments.uniform(0.0, 0.4))
        before = len(job.metrics())
        os.kill(pid_of(job), signal.SIGKILL)
        assert end_of(job) == "lost"
        assert len(job.metrics()) >= before
        job = jobs.start(functions.count, {"to": 300, "pause": 0.01}, name="count")
    assert job.result(60) == 300
    assert list(job.metrics().step) == list(range(1, 301)) and list(job.metrics().square) == [step**2 for step in range(1, 301)]
    assert len(job.events("started")) == 6


STARTER = """
    import sys
    sys.path.insert(0, sys.argv[2])
    import llmops_nb as ops, jobs_for_tests as functions
    ws = ops.Workspace(sys.argv[1])
    job = ops.jobs.start(functions.count, {"to": 200, "pause": 0.02}, name="shared")
    job.wait_for("report")
    print("started", flush=True)
    job.wait()
"""


def test_it_outlives_the_kernel_that_started_it(ws) -> None:
    kernel = start(STARTER, ws.path, HERE)
    assert kernel.stdout.readline().strip() == "started"
    kill(kernel)
    job = jobs.get("shared")
    assert job.state == "running" and job.result(60) == 200 and len(job.events("started")) == 1


def test_an_interrupted_cell_lets_go_and_the_job_goes_on(ws) -> None:
    kernel = start(STARTER, ws.path, HERE)
    assert kernel.stdout.readline().strip() == "started"
    time.sleep(0.2)
    kernel.send_signal(signal.SIGINT)
    _, said = kernel.communicate(timeout=30)
    assert "Only the waiting ended" in said and "KeyboardInterrupt" in said
    assert jobs.get("shared").result(60) == 200


def test_two_kernels_start_one_job(ws) -> None:
    kernels = [start(STARTER, ws.path, HERE) for _ in range(3)]
    for kernel in kernels:
        finish(kernel)
    job = jobs.get("shared")
    assert job.result(60) == 200 and len(job.events("started")) == 1


def test_another_job_under_a_name_in_use_is_refused_then_kept_beside(ws) -> None:
    running = jobs.start(functions.count, {"to": 500, "pause": 0.01}, name="mine")
    with pytest.raises(InputError, match="A job of this name is running"):
        jobs.start(functions.count, {"to": 5}, name="mine")
    running.stop()
    assert running.state == "stopped"
    assert jobs.start(functions.count, {"to": 5}, name="mine").result(30) == 5
    assert jobs.get("mine-1").spec["arguments"]["to"] == 500 and jobs.get("mine-1").state == "stopped"
    assert jobs.get("mine-1").resume().state in ("starting", "running")
    jobs.get("mine-1").stop()


def test_what_does_not_listen_is_killed_and_says_so(ws) -> None:
    job = jobs.start(functions.deaf, name="deaf")
    job.wait_for("ready")
    pid = pid_of(job)
    job.stop(timeout=0.5)
    assert job.state == "stopped" and "was killed" in job.events("ended")[-1]["error"] and gone(pid)
    job.stop()  # harmless


def test_a_full_disk_is_one_clear_end(small_disk) -> None:
    import llmops_nb as ops

    with ops.Workspace(small_disk("1m") / "ws"):
        job = jobs.start(functions.fill, name="fill")
        assert end_of(job) == "failed"
        assert "No space left" in job.events("ended")[-1]["error"]
        assert len(job.metrics()) > 3 and job.events("report")[-1]["step"] == job.metrics().step.iloc[-1]
        with pytest.raises(jobs.JobFailed, match="No space left"):
            job.result()


def test_a_key_for_the_child_is_written_nowhere(ws) -> None:
    job = jobs.start(functions.look, {"name": "LESSON_KEY"}, name="key", environment={"LESSON_KEY": "sk-not-for-disk"})
    assert job.result(30) == "set"
    for file in job.folder.rglob("*"):
        assert not file.is_file() or b"sk-not-for-disk" not in file.read_bytes(), file


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_arguments_that_cannot_be_kept_are_refused_before_anything_starts(ws, value) -> None:
    with pytest.raises(InputError, match="'to' cannot be written down"):
        jobs.start(functions.count, {"to": value}, name="bad")
    assert jobs.table().empty


def test_a_name_that_is_no_file_name_is_refused(ws) -> None:
    for name in ("", "../up", "a b", None):
        with pytest.raises(InputError, match="plain word"):
            jobs.start(functions.count, {"to": 1}, name=name)


def test_a_process_that_cannot_even_start_is_a_clear_failure(ws) -> None:
    job = jobs.start(functions.count, {"to": 3}, name="broken", environment={"PYTHONMALLOC": "nonsense"})
    assert job.state == "failed"
    with pytest.raises(jobs.JobFailed, match="could not start"):
        job.result()
    assert job.resume().result(30) == 3  # the environment was for that start only


def test_a_second_process_on_one_job_stands_back(ws) -> None:
    from llmops_nb.compute.job_process import held_alive

    folder = ws.path / "jobs" / "x"
    folder.mkdir()
    with held_alive(folder), pytest.raises(OpsError, match="Another process is running this job"), held_alive(folder, wait=0.1):
        pass


@pytest.mark.slow
def test_processes_of_a_killed_torchrun_job_end_too(ws) -> None:
    job = jobs.start(functions.linger, name="linger", processes=2)
    pids = [int(functions.wait_for(job.folder / f"pid-{rank}", 60)) for rank in range(2)]
    os.kill(pid_of(job), signal.SIGKILL)
    assert end_of(job) == "lost" and all(gone(pid) for pid in pids)
    for rank in range(2):
        (job.folder / f"pid-{rank}").unlink()
    job.resume()
    pids = [int(functions.wait_for(job.folder / f"pid-{rank}", 60)) for rank in range(2)]
    os.kill(pids[1], signal.SIGKILL)
    assert end_of(job, 60) == "failed" and "died without a word" in job.events("ended")[-1]["error"] and gone(pids[0])


def test_memory_is_seen_and_given_back(ws) -> None:
    def hold(job):
        import time

        held = bytearray(200_000_000)
        time.sleep(1.6)
        return len(held)

    hold.__module__, hold.__qualname__ = "__main__", "hold"
    before = psutil.Process().memory_info().rss
    job = jobs.start(hold, name="hold")
    assert job.result(30) == 200_000_000
    assert max(event["resident"] for event in job.events("memory")) > 200_000_000
    assert psutil.Process().memory_info().rss - before < 30_000_000 and gone(pid_of(job))


@pytest.mark.slow
def test_several_processes_stop_together_and_continue(ws) -> None:
    job = jobs.start(functions.linger, name="linger", processes=2)
    job.wait_for("ready", 60)
    job.stop()
    assert job.state == "stopped"
    job.resume().stop()  # at once, perhaps before its processes are there
    assert job.state == "stopped"
