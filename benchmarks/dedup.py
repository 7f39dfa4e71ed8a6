"""Near copies in 100 MB of documents: found, wrongly found, documents a second and memory, beside datasketch and rensa.

python benchmarks/dedup.py [megabytes]

The documents are made of invented words with the frequencies of a language; every tenth is a copy of an earlier one with some words
replaced, so that their Jaccard similarity (5 words at a time) lies between 0.6 and 0.98. Recall is over the planted pairs of 0.8 and
more; precision is over all pairs found, both against the exact similarity of the two sets. Each contestant runs in a fresh process.

Where ../shared/data/pretrain/books is there, copies that nobody planted follow: paragraphs of the books, which say little twice, and pages
that overlap; all pairs are counted exactly, by way of the pages that hold a run of words.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from memory import status

CONTESTANTS = ("datasketch", "rensa", "ours")
THRESHOLD, WORDS = 0.8, 5
BOOKS = Path(__file__).parents[2] / "shared" / "data" / "pretrain" / "books"


def documents(megabytes: float) -> tuple[list[str], list[tuple[int, int]]]:
    "The texts, and the planted pairs."
    import numpy as np

    random = np.random.default_rng(0)
    parts = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in "aeiou"]
    words = np.array(["".join(parts[n] for n in random.integers(0, len(parts), random.integers(1, 5))) for _ in range(30_000)])
    texts: list[str] = []
    pairs: list[tuple[int, int]] = []
    size = 0
    while size < megabytes * 1e6:
        if texts and random.random() < 0.1:
            old = int(random.integers(0, len(texts)))
            new = np.array(texts[old].split())
            changed = random.random(len(new)) < random.uniform(0.001, 0.06)
            new[changed] = words[random.integers(0, len(words), changed.sum())]
            pairs.append((old, len(texts)))
        else:
            new = words[(random.zipf(1.25, int(random.lognormal(5.5, 0.7))) - 1) % len(words)]
        texts.append(" ".join(new.tolist()))
        size += len(texts[-1])
    return texts, pairs


def grams(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[n : n + WORDS]) for n in range(max(1, len(words) - WORDS + 1))}


def jaccard(one: str, two: str) -> float:
    a, b = grams(one), grams(two)
    return len(a & b) / len(a | b)


def ours(texts: list[str]) -> set[tuple[int, int]]:
    from llmops_nb.near_copies import pairs

    return {(pair.first, pair.second) for pair in pairs(texts, THRESHOLD, WORDS)}


def datasketch(texts: list[str]) -> set[tuple[int, int]]:
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(threshold=THRESHOLD, num_perm=128), set()
    for place, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        found |= {(other, place) for other in index.query(sketch)}
        index.insert(place, sketch, check_duplication=False)
    return found


def rensa(texts: list[str]) -> set[tuple[int, int]]:
    from rensa import RMinHash, RMinHashLSH

    index, found = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=16), set()
    for place, text in enumerate(texts):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(list(grams(text)))
        found |= {(other, place) for other in index.query(sketch)}
        index.insert(place, sketch)
    return found


def run(name: str, megabytes: float) -> dict:
    texts, pairs = documents(megabytes)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    found = {"ours": ours, "datasketch": datasketch, "rensa": rensa}[name](texts)
    seconds, peak = time.perf_counter() - began, status("VmHWM") - before
    near = [pair for pair in pairs if jaccard(texts[pair[0]], texts[pair[1]]) >= THRESHOLD]
    right = sum(jaccard(texts[a], texts[b]) >= THRESHOLD for a, b in found)
    return {
        "documents": len(texts), "seconds": seconds, "bytes": peak, "planted": len(near), "found": len(found),
        "recall": sum(pair in found for pair in near) / len(near), "precision": right / max(1, len(found)),
    }  # fmt: skip


def main(megabytes: float) -> None:
    found = {}
    for name in CONTESTANTS:
        done = subprocess.run([sys.executable, __file__, "--run", name, str(megabytes)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found[name] = json.loads(done.stdout.splitlines()[-1])
    slow = found["datasketch"]
    print(f"{megabytes:g} MB, {slow['documents']:,} documents, {slow['planted']:,} planted pairs of {THRESHOLD} and more")
    for name, one in found.items():
        rate = one["documents"] / one["seconds"]
        print(f"{name:12} {rate:8,.0f} documents/s   {rate * slow['seconds'] / slow['documents']:5.1f} x datasketch   "
              f"recall {one['recall']:.4f}   precision {one['precision']:.4f}   {one['bytes'] / 1e6:6,.0f} MB")  # fmt: skip


def exactly(texts: list[str], least: float) -> set[tuple[int, int]]:
    "All pairs of that similarity and more."
    holders, sizes, found = defaultdict[str, list[int]](list), list[int](), set[tuple[int, int]]()
    for place, text in enumerate(texts):
        runs = grams(text)
        common = Counter(other for run in runs for other in holders[run])
        found |= {(other, place) for other, count in common.items() if count / (sizes[other] + len(runs) - count) >= least}
        for run in runs:
            holders[run].append(place)
        sizes.append(len(runs))
    return found


def overlapping(words: list[str], draw: random.Random) -> list[str]:
    "Pages of 100 to 300 words, each beginning 5 to 60 words after the one before."
    pages, start = [], 0
    while start < len(words):
        pages.append(" ".join(words[start : start + draw.randint(100, 300)]))
        start += draw.randint(5, 60)
    return pages


def natural(folder: Path) -> None:
    from llmops_nb.near_copies import pairs, plain

    books, draw = [path.read_text() for path in sorted(folder.glob("*.md"))], random.Random(0)
    paragraphs = [plain(text) for book in books for text in re.split(r"\n\s*\n", book) if text.strip()]
    different = list(dict.fromkeys(paragraphs))
    print(f"\n{len(books)} books: {len(paragraphs):,} paragraphs, {len(paragraphs) - len(different):,} of them said before")
    pages = [page for book in books for page in overlapping(plain(book).split(), draw)]
    for name, texts in (("paragraphs", different), ("pages", pages)):
        for least in (0.8, 0.5, 0.3):
            began = time.perf_counter()
            found = {(pair.first, pair.second) for pair in pairs(texts, least, WORDS)}
            seconds, wanted = time.perf_counter() - began, exactly(texts, least)
            right = len(wanted & found)
            print(f"{len(texts):7,} {name:10} similarity {least}   {len(wanted):7,} pairs, {len(found):7,} found in {seconds:5.1f} s   "
                  f"recall {right / max(1, len(wanted)):.4f}   precision {right / max(1, len(found)):.4f}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(sys.argv[2], float(sys.argv[3]))))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 100)
        natural(BOOKS) if BOOKS.exists() else print("\nThe books are not beside this checkout: no natural copies.")
