"""The background loop: sync from async, async from elsewhere, forks and interrupts."""

import asyncio
import contextvars
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from llmops_nb.compute.loop import aio, run
from llmops_nb.errors import OpsError

name = contextvars.ContextVar("name", default="nobody")


async def who():
    await asyncio.sleep(0)
    return name.get(), threading.current_thread().name


def test_run_in_a_running_loop_with_the_callers_context():
    async def cell():
        name.set("ada")
        return run(who()), await aio(who())

    assert asyncio.run(cell()) == (("ada", "llmops_nb loop"),) * 2


def test_many_threads_share_one_loop():
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(run(who())[1])) for _ in range(20)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert seen == ["llmops_nb loop"] * 20


def test_from_the_loop_itself_is_an_error():
    async def outer():
        return run(who())

    with pytest.raises(OpsError, match="wait for itself"):
        run(outer())


def test_a_forked_child_gets_its_own():
    run(who())
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run(who())[1] == "llmops_nb loop" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_interrupt_cancels_the_work():
    code = textwrap.dedent("""
        import asyncio, os, signal, threading, time
        from llmops_nb.compute.loop import run
        async def work():
            try: await asyncio.sleep(30)
            except asyncio.CancelledError: print("cancelled", flush=True); raise
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try: run(work())
        except KeyboardInterrupt: time.sleep(0.2); print("interrupted")
    """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10)
    assert out.stdout.split() == ["cancelled", "interrupted"], out.stderr
