"""A folder of 5 GB, loaded, cleaned and written to the lake: how long, and in how much memory.

python benchmarks/corpus.py [gigabytes] [folder]

The text is what Python brings along (the language reference, the docstrings, its own source), put together differently for each
document, with the faults that cleaning mends. A third each comes as text files of 50 KB, as JSON Lines, and as compressed JSON
Lines. Each run is a process of its own; memory is the largest resident set of that process and, with an engine, of its largest child.
"""

import gzip
import itertools
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FILES = 400 * 2**20  # bytes of text in a file of rows


def texts(size: int, seed: int) -> Iterator[str]:
    """Documents of about 2 KB, no two the same."""
    from llmops_nb import python_manual

    rng = random.Random(seed)
    paragraphs = [part for _, text, _ in itertools.chain(python_manual.topics(), python_manual.docstrings()) for part in text.split("\n\n")]
    while size > 0:
        text = "\r\n\r\n".join(rng.choices(paragraphs, k=12)) + "  \n\n\n\nThe end\u200b of it, na\u00efve."
        size -= len(text)
        yield text


def generate(folder: Path, gigabytes: float) -> int:
    """The folder; how many bytes of text are in it."""
    third = int(gigabytes * 1e9 / 3)
    for n, start in enumerate(range(0, third, FILES)):
        part = min(FILES, third - start)
        (folder / "notes").mkdir(exist_ok=True)
        for number, group in enumerate(grouped(texts(part, n), 25)):
            (folder / "notes" / f"{n}-{number}.md").write_text("\n\n".join(group), encoding="utf-8", newline="")
        for opener, name, seed in ((open, "rows", 100 + n), (gzip.open, "packed", 200 + n)):
            path = folder / f"{name}-{n}.jsonl{'.gz' if opener is gzip.open else ''}"
            with opener(path, "wt", **({"compresslevel": 1} if opener is gzip.open else {}), encoding="utf-8") as file:
                for number, text in enumerate(texts(part, seed)):
                    file.write(json.dumps({"id": f"{path.name}/{number}", "text": text}) + "\n")
    return 3 * third


def grouped(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while group := list(itertools.islice(items, size)):
        yield group


def run(folder: Path, workspace: Path, engine: str | None) -> None:
    """Load, clean, write; prints the figures."""
    import llmops_nb as ops

    ops.Workspace(workspace)
    started = time.perf_counter()
    table = ops.lake.write("corpus", ops.data.clean(ops.data.batches(folder), engine=engine))
    seconds = time.perf_counter() - started
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"rows": table.rows, "bytes": table.bytes, "seconds": seconds, "memory": own, "child": children}))


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    folder = Path(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None))
    try:
        (folder / "corpus").mkdir()
        size = generate(folder / "corpus", gigabytes)
        print(f"{size / 1e9:.1f} GB of text in {sum(1 for _ in (folder / 'corpus').rglob('*.*')):,} files")
        for engine in (None, "processes") if gigabytes < 1 else ("processes",):
            command = [sys.executable, __file__, "--run", str(folder / "corpus"), str(folder / f"workspace-{engine}"), str(engine)]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"  engine={engine!s:10}{done['seconds']:6.0f} s {size / 1e6 / done['seconds']:6.1f} MB/s {done['memory']:6.0f} MB here, "
                  f"{done['child']:4.0f} MB in the largest worker; {done['rows']:,} rows, {done['bytes'] / 1e9:.2f} GB in the lake")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), Path(sys.argv[3]), None if sys.argv[4] == "None" else sys.argv[4])
    else:
        main()
