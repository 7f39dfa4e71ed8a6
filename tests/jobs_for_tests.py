"""Functions that jobs in tests run: a job's function must be importable by its process."""

import time
from pathlib import Path

from llmops_nb.compute.jobs import JobContext, Stopped


def count(job: JobContext, to: int, pause: float = 0.0) -> int:
    """Count, remember the place, stop when asked."""
    place = job.checkpoints / "place"
    done = int(place.read_text()) if place.exists() else 0
    for step in range(done + 1, to + 1):
        time.sleep(pause)
        job.report(step=step, total=to, square=step**2)
        (job.checkpoints / "next").write_text(str(step))
        (job.checkpoints / "next").rename(place)
        if job.stopping:
            raise Stopped
    return to


def deaf(job: JobContext) -> None:
    """Never look at job.stopping."""
    job.note("ready")
    time.sleep(600)


def fill(job: JobContext) -> None:
    """Report until the disk is full."""
    for step in range(1_000_000):
        job.report(step=step, filler=1.0)
        (job.checkpoints / f"{step}").write_bytes(b"x" * 50_000)


def look(job: JobContext, name: str) -> str:
    """Say whether a variable of the environment is set, not what it holds."""
    import os

    return "set" if os.environ.get(name) else "absent"


def linger(job: JobContext) -> None:
    """One of several processes: say which one, then wait."""
    import os

    (job.folder / f"pid-{job.rank}").write_text(str(os.getpid()))
    job.note("ready")
    while not job.stopping:
        time.sleep(0.1)
    raise Stopped


def wait_for(path: Path, seconds: float = 30) -> str:
    """The file's text, once it is there."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.05)
    return path.read_text()
