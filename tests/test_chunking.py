"Chunks under real tokenizers, by characters, and of every structure: promises that hold for every text."

import functools
import itertools
import pathlib
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from llmops_nb import chunking, python_manual, structure
from llmops_nb.encodings import fast
from llmops_nb.errors import InputError

SNIPPETS = [
    "word",
    "longerwordthanothers",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "    ",
    ". ",
    "! A",
    ":\n\n    code\n",
    "# H\n",
    "```\n",
    "~~~\n",
    ">>> f(1)\n",
    "T\n===\n",
    "日本語。",
    "é",
    "e\u0301",
    "😀",
    "\u00a0",
    "\u2028",
    "123456",
    "_",
    "(",
    ")",
    "\r\n",
    "\x1f",
    "don't",
    "<s>",
    "...",
    "=====",
    "\u200b",
    "ﬁ",
    "| a | b |\n",
    "<p>",
    "</p>",
    "def f():\n",
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.lists(st.sampled_from(SNIPPETS), max_size=160).map("".join)
)


@functools.cache
def manual() -> list[str]:
    return [text for _, text, _ in python_manual.topics()]


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    "One of each family, trained on the manual."
    letters = pre_tokenizers.ByteLevel.alphabet()
    lines = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    made = {
        "wordpiece": lambda: (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=2000, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
            processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)),
        ),
        "bytes": lambda: (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=2000, initial_alphabet=letters, show_progress=False),
            None,
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            processors.ByteLevel(trim_offsets=True),
        ),
        "lines": lambda: (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=2000, initial_alphabet=letters, show_progress=False),
            normalizers.NFC(),
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(lines), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
            None,
        ),
        "hidden": lambda: (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=3000, initial_alphabet=letters, show_progress=False),
            None,
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(lines), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
            processors.ByteLevel(trim_offsets=True),
        ),
        "unigram": lambda: (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=1500, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False),
            normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")]),
            pre_tokenizers.Metaspace(),
            processors.TemplateProcessing("$0 </s>", "$A $B </s>", [("</s>", 1)]),
        ),
        "whole": lambda: (
            models.BPE(unk_token="<unk>"),
            trainers.BpeTrainer(vocab_size=1000, special_tokens=["<unk>"], show_progress=False),
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            None,
            None,
        ),
    }
    model, trainer, normalizer, words, after = made[kind]()
    one = Tokenizer(model)
    if words:
        one.pre_tokenizer = words
    if normalizer:
        one.normalizer = normalizer
    one.train_from_iterator((text for text in manual()[:60]), trainer)
    if after:
        one.post_processor = after
    one.add_special_tokens([AddedToken("<s>", lstrip=True, rstrip=True)])
    return one


KINDS = ["wordpiece", "bytes", "lines", "hidden", "unigram", "whole"]


def check(text: str, spans: list, size: int) -> None:
    reached, previous = 0, -1
    for start, end, _ in spans:
        piece = text[start:end]
        assert previous < start < end <= len(text) and end > reached
        assert not text[reached:start].strip(), "something was left out"
        assert piece.rstrip() == piece
        reached, previous = end, start
    assert not text[reached:].strip()
    assert all(tokens <= size for _, _, tokens in spans)


# --- a fast tokenizer: the number is that of encoding the chunk, though the chunk was not encoded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "overlap"), [(256, 32), (100, 0), (40, 13)])
def test_every_chunk_of_the_manual_has_the_tokens_it_says(kind, size, overlap):
    one = tokenizer(kind)
    texts = manual() if kind != "whole" else manual()[:20]
    for text, spans in zip(texts, chunking.split_all(texts, size, overlap, one), strict=True):
        spans = list(spans)
        check(text, spans, size)
        assert [tokens for _, _, tokens in spans] == [len(one.encode(text[start:end])) for start, end, _ in spans]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=3),
    st.integers(12, 300),
    st.data(),
    st.sampled_from(KINDS),
    st.sampled_from(list(structure.STRUCTURES)),
)
def test_every_chunk_of_any_text_has_the_tokens_it_says(texts, size, data, kind, form):
    one, text = tokenizer(kind), "".join(texts) * 6
    spans = list(chunking.split(text, size, data.draw(st.integers(0, size - 1)), one, form))
    check(text, spans, size)
    assert [tokens for _, _, tokens in spans] == [len(one.encode(text[start:end])) for start, end, _ in spans]


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "lines", "unigram"])
def test_chunks_are_not_encoded_twice(kind, monkeypatch):
    one, encoded = tokenizer(kind), [0]

    class Counting:
        num_special_tokens_to_add = one.num_special_tokens_to_add

        def encode(self, text, **options):
            encoded[0] += len(text)
            return one.encode(text, **options)

        def encode_batch(self, texts, **options):
            encoded[0] += sum(map(len, texts))
            return one.encode_batch(texts, **options)

    monkeypatch.setattr(chunking, "fast", lambda _: Counting())
    text = "\n\n".join(manual())
    list(chunking.split(text, 256, 0, one))
    assert encoded[0] < 1.25 * len(text)


def test_blocks_of_a_long_document_meet(monkeypatch):
    monkeypatch.setattr("llmops_nb.encodings.BLOCK", 3000)
    monkeypatch.setattr("llmops_nb.encodings.BATCH", 10_000)
    monkeypatch.setattr("llmops_nb.encodings.REACH", 8)
    text = "\n\n".join(manual()[:12])
    for kind in KINDS:
        one = tokenizer(kind)
        spans = list(chunking.split(text, 24, 6, one))
        check(text, spans, 24)
        assert [tokens for _, _, tokens in spans] == [len(one.encode(text[start:end])) for start, end, _ in spans]


def test_a_tokenizer_that_truncates_and_pads_is_measured_without():
    one = Tokenizer.from_str(tokenizer("wordpiece").to_str())
    one.enable_truncation(16)
    one.enable_padding(length=16)
    text = manual()[3]
    assert list(chunking.split(text, 64, 0, one)) == list(chunking.split(text, 64, 0, tokenizer("wordpiece")))
    assert len(one.encode(text)) == 16, "the given tokenizer stays as it is"
    assert chunking.count_tokens(text, one) == chunking.count_tokens(text, tokenizer("wordpiece")) > 64


def test_transformers_and_tokenizers_give_the_same_chunks():
    transformers = pytest.importorskip("transformers")
    for kind in ("wordpiece", "bytes", "unigram"):
        wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer(kind))
        text = manual()[5]
        spans = list(chunking.split(text, 64, 8, wrapped))
        assert fast(wrapped) and spans == list(chunking.split(text, 64, 8, tokenizer(kind)))
        assert all(tokens == len(wrapped(text[start:end])["input_ids"]) <= 64 for start, end, tokens in spans)


def test_a_tokenizer_that_says_something_else_is_only_asked():
    transformers = pytest.importorskip("transformers")

    class Twice(transformers.PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            found = super().__call__(text, **options)
            return {"input_ids": 2 * found["input_ids"]}

    doubling = Twice(tokenizer_object=tokenizer("bytes"))
    text = manual()[5]
    assert fast(doubling) is None
    assert all(tokens == len(doubling(text[start:end])["input_ids"]) <= 64 for start, end, tokens in chunking.split(text, 64, 8, doubling))


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="max_tokens of at least 3"):
        list(chunking.split("a b", 2, 0, tokenizer("wordpiece")))
    with pytest.raises(InputError, match="no tokenizer"):
        chunking.split("a", 5, 0, object())
    with pytest.raises(InputError, match="no such structure"):
        chunking.split("a", structure="poem")
    assert list(chunking.split(" \n", 1, 0, tokenizer("wordpiece"))) == []


# --- characters


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(1, 60), st.data(), st.sampled_from(list(structure.STRUCTURES)))
@example("x" * 1000, 8, None, "text")
def test_a_limit_in_characters(text, size, data, form):
    overlap = data.draw(st.integers(0, size - 1)) if data else 3
    spans = list(chunking.split(text, size, overlap, len, form))
    check(text, spans, size)
    for (_, before, _), (start, _, _) in itertools.pairwise(spans):
        assert before - start <= overlap
    assert all(tokens == end - start for start, end, tokens in spans)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(4, 60), st.data(), st.sampled_from(list(structure.STRUCTURES)))
def test_every_structure_under_the_default_rule(text, size, data, form):
    spans = list(chunking.split(text, size, data.draw(st.integers(0, size - 1)), None, form))
    check(text, spans, size)
    assert all(tokens == chunking.count_tokens(text[start:end]) for start, end, tokens in spans)


LIMITS = {"characters": (200, len), "default": (40, None), "tokens": (60, "wordpiece")}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["Some words come first.", "More follow here, and more.", "# Title", "a = 1"]), max_size=8),
    st.lists(st.sampled_from(["x = 1", "", "    y = 2", "# comment", "print(x)"]), min_size=1, max_size=6),
    st.integers(0, 12),
)
def test_code_that_fits_is_never_cut(before, code, overlap):
    block = "```python\n" + "\n".join(code) + "\n```"
    text = "\n\n".join([*before, block, *before])
    first, last = text.index(block), text.index(block) + len(block)
    for form in ("text", "markdown", "notebook"):
        spans = [(start, end) for start, end, _ in chunking.split(text, 120, overlap, len, form)]
        if len(block) <= 120:
            assert any(start <= first and last <= end for start, end in spans)
            assert not any(first < edge < last for span in spans for edge in span)


# --- structures


@pytest.mark.parametrize("limit", LIMITS)
def test_a_table_is_cut_between_rows(limit):
    size, count = LIMITS[limit]
    count = tokenizer(count) if isinstance(count, str) else count
    rows = [f"| order {n} | Was it paid? Yes. It was sent on day {n}. | open |" for n in range(40)]
    text = "# Orders\n\n| id | said | state |\n|---|---|---|\n" + "\n".join(rows)
    for start, end, _ in chunking.split(text, size, 0, count, "markdown"):
        assert text[start:end].startswith(("# Orders", "| ")) and text[start:end].endswith("|")


@pytest.mark.parametrize("limit", LIMITS)
def test_a_page_is_never_cut_inside_a_tag(limit):
    size, count = LIMITS[limit]
    count = tokenizer(count) if isinstance(count, str) else count
    item = (
        '<p class="note wide" id="p{0}">One word of {0}. And <a href="/a b c/{0}" title="x > y">more words</a> follow here.</p>'
        "<ul><li>first</li><li>second one</li></ul>"
    )
    text = "<html><body><h1>Guide</h1>" + "".join(f"<h2>Part {n}</h2>" + item.format(n) for n in range(30)) + "</body></html>"
    spans = list(chunking.split(text, size, 0, count, "html"))
    check(text, spans, size)
    tags = [found.span() for found in structure.STRUCTURES["html"].blocks.finditer(text)]
    assert not any(first < edge < last for start, end, _ in spans for edge in (start, end) for first, last in tags)
    paths = structure.headings(text, [start for start, _, _ in spans], structure.STRUCTURES["html"])
    assert paths[-1].startswith("Guide > Part ")


@pytest.mark.parametrize("limit", LIMITS)
def test_a_program_is_cut_between_definitions(limit):
    size, count = LIMITS[limit]
    count = tokenizer(count) if isinstance(count, str) else count
    method = "    @property\n    def part{0}(self):\n        return [{0}, self.items]\n"
    text = "import os\n\n\n" + "\n\n".join(f"class Shop{n}:\n" + "\n".join(method.format(m) for m in range(3)) for n in range(8))
    spans = list(chunking.split(text, size, 0, count, "python"))
    check(text, spans, size)
    assert all(text[start:end].lstrip().startswith(("import", "class", "@property")) for start, end, _ in spans)
    paths = structure.headings(text, [text.index("return [2", text.index("Shop5"))], structure.STRUCTURES["python"])
    assert paths == ["Shop5 > part2"]


def test_real_programs_say_where_each_chunk_stands():
    text = pathlib.Path(python_manual.__file__).read_text()
    form = structure.structure_of("python_manual.py")
    spans = list(chunking.split(text, 1200, 0, len, form.name))
    paths = structure.headings(text, [start for start, _, _ in spans], form)
    begins = [path for path, (start, _, _) in zip(paths, spans, strict=True) if text[start:].startswith("def topics")]
    assert begins == ["topics"]


def test_braces():
    functions = "\n\n".join(f"/* about {n} */\nint f{n}(int a) {{\n  if (a) {{\n    return {n};\n  }}\n  return a;\n}}" for n in range(20))
    text = "#include <stdio.h>\n\n" + functions
    assert all(text[start:end].endswith("}") for start, end, _ in chunking.split(text, 200, 0, len, "code"))
    assert structure.headings("export class A {\n  function go(x) {\n", [25], structure.STRUCTURES["code"]) == ["A > go"]


def test_cells_of_a_notebook_stay_with_what_is_said_before_them():
    cells = [f"Now comes step {n}, which needs a few words.\n\n```python\nstep({n})\n```" for n in range(12)]
    text = "\n\n".join(cells)
    for start, end, _ in chunking.split(text, 200, 0, len, "notebook"):
        assert text[start:end].startswith("Now") and text[start:end].endswith("```")


def test_headings_of_markdown():
    text = "---\ntitle: x\n---\n\nlead\n\n# A #\n\none\n\n### C\n\n```\n# no\n```\ntwo\n\nB\n---\n\nthree\n\n# Z\nfour"
    at = [text.index(word) for word in ("lead", "one", "no", "two", "three", "four", "### C")]
    assert structure.headings(text, at, structure.STRUCTURES["markdown"]) == ["", "A", "A > C", "A > C", "A > B", "Z", "A > C"]


# --- cost


UNITS = [
    "x",
    ".",
    " ",
    "\n",
    "`",
    "```\n",
    "\n\n    a",
    ":\n\n   a\n",
    ">>> a\n",
    "A. ",
    "a\n===\n",
    "# ",
    "日",
    "\t\n",
    "~~~",
    "    \n",
    "[\"'",
    "<",
    "<a",
    "<!--",
    "<p>",
    "<pre>",
    "@a\n",
    '"""',
    "|",
    "def f():\n",
    "{",
    "}\n",
    "\n}\n",
    "a\n---\n",
    "<h1>",
    "#\n",
    "---\n",
    "/*",
    "> ",
    "(",
    "a b ",
]


def grows_linearly(do, unit: str, length: int) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        started = time.process_time()
        do(text)
        return time.process_time() - started

    seconds(1000)
    assert seconds(4 * length) < 10 * max(seconds(length), 0.02)  # 4 would be linear, 16 quadratic


@pytest.mark.parametrize("form", list(structure.STRUCTURES))
@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_only(unit, form):
    grows_linearly(lambda text: list(chunking.split(text, 200, 20, len, form)), unit, 150_000)
    grows_linearly(lambda text: structure.headings(text, range(0, len(text), 500), structure.STRUCTURES[form]), unit, 150_000)


@pytest.mark.parametrize("unit", ["x", ".", "\n", "QmFz", "日", "a b ", "   "])
@pytest.mark.parametrize("kind", KINDS[:5])
def test_time_under_a_tokenizer_grows_with_length_only(unit, kind):
    grows_linearly(lambda text: list(chunking.split(text, 64, 8, tokenizer(kind))), unit, 100_000)


def test_deep_nesting():
    text = "".join("    " * depth + f"def f{depth}():\n" for depth in range(300))
    assert structure.headings(text, [text.index("f299")], structure.STRUCTURES["python"])[0].endswith("f299")
    check(text, list(chunking.split(text, 500, 0, len, "python")), 500)
