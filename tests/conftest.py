"""What tests share: a workspace of their own, small disks that really fill, child processes that really die."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same every time", derandomize=True)
settings.load_profile("same every time")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
os.environ["RAY_AUTH_MODE"] = "disabled"  # a token would be written into the home folder
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator:
    """An open workspace, closed afterwards."""
    import llmops_nb as ops

    with ops.Workspace(tmp_path / "workspace") as workspace:
        yield workspace


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is absent."""
    if not SHARED.exists():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a real file system: small_disk("2m") fills, small_disk("2m", "ro") refuses; skips where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(size: str, *options: str) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(path)], capture_output=True)
        if done.returncode:
            pytest.skip("this test mounts a small file system, which is not allowed here")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=False)


def start(code: str, *args: object) -> subprocess.Popen:
    """A child Python running `code`, its output readable line by line."""
    command = [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen) -> str:
    """The child's output; fails with its errors when it failed."""
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


def kill(child: subprocess.Popen) -> None:
    """End the child as the machine would: no warning, no clean-up."""
    child.send_signal(signal.SIGKILL)
    child.wait(30)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Close whatever workspace a test forgot."""
    yield
    from llmops_nb.storage import workspace

    for left in list(workspace._open.values()):
        left.close()
