"""What cleaning and filtering costs, and whether datatrove decides the same; which language detector is right more often.

python benchmarks/quality.py            # MB/s of every step on one core; beside datatrove where it is installed
python benchmarks/quality.py languages  # py3langid beside lingua on the messages of Sphinx, where those are installed

The alternatives want versions of their own: pip install datatrove spacy lingua-language-detector sphinx in another environment, with this
project's folder in PYTHONPATH. The texts are what every Python carries: the sections of the language reference, the docstrings of the
standard library and its source files, and pages that are rubbish on purpose. They come in two lengths, as they are and joined to 50,000
characters. datatrove is given the limits that the papers have (its own defaults differ for C4 and FineWeb). It counts punctuation as
words, and does not take a closing quote for the end of a sentence, so the rules about words with a letter and about ended lines decide
differently.
"""

import gettext
import random
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops_nb import language, quality, repair
from llmops_nb.python_manual import docstrings, topics

RUBBISH = [
    "We value your privacy\nWe and our partners store information on a device.\nAccept all\nReject all\nManage options\n" * 4,
    "cheap flights, cheap hotels, flight hotel deals, best cheap flights Rome, hotel Rome cheap, last minute flights " * 6,
    "Buy our shoes today and get the best price of the year. " * 40,
    "\n".join(f"{n} {n * 7919 % 10007} {n / 7:.3f}" for n in range(200)),
    "function f(a) { return a.map(x => { return x * 2; }); }\n" * 20,
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 12,
    "# # # # tag #tag #more of the #same\n" * 30,
    "read more...\nthe story of the day...\nand that is what we have...\n" * 20,
    "- one item of the list\n- two\n- and that is all there is to it\n" * 20,
]  # fmt: skip


def texts() -> list[str]:
    sources = [path.read_text(errors="replace") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    found = [text for source in (topics, docstrings) for _, text, _ in source() if len(text.split()) >= 40]
    return [*found, *sources, *RUBBISH]


def joined(parts: list[str], size: int = 50_000) -> list[str]:
    text = "\n\n".join(parts)
    return [text[start : start + size] for start in range(0, len(text), size)]


def rate(step: Callable[[str], object], of: list[str]) -> float:
    "MB a second."
    began = time.perf_counter()
    for text in of:
        step(text)
    return sum(len(text.encode("utf-8", "replace")) for text in of) / 1e6 / (time.perf_counter() - began)


def steps() -> None:
    short, long = texts(), joined(texts())
    lines = repair.repeated_lines(short, share=0.05)
    names: dict[str, Callable[[str], object]] = {
        **{f"repair: {name}": rule for name, rule in repair.RULES.items()},
        "repair: the usual rules": repair.repaired,
        "repeated lines, first time over": lambda text: repair.repeated_lines([text]),
        "repeated lines, second time over": lambda text: repair.without_lines(text, lines),
        "lines that are sentences": repair.sentences_only,
        "language": language.language,
        **{f"quality: {rule.name}": lambda text, name=rule.name: quality.problems(text, [name]) for rule in quality.RULES},
        **{f"quality: {family}": lambda text, name=family: quality.problems(text, [name]) for family in quality.FAMILIES},
        "quality: all": quality.problems,
    }
    print(f"{len(short):,} texts, {sum(map(len, short)) / 1e6:.1f} MB; MB/s as they are, and joined to 50,000 characters")
    language.language("so that its model is read before the time is taken")
    for name, step in names.items():
        print(f"{name:58} {rate(step, short):8,.1f} {rate(step, long):8,.1f}")


def beside_datatrove() -> None:
    try:
        from datatrove.data import Document
        from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    except ImportError:
        print("datatrove is not installed: no comparison")
        return
    names = [rule.name for rule in quality.RULES if rule.family == "Gopher"]
    first = names[:8]
    others = [name for name in first if name != "gopher share of words with a letter"]
    pairs: dict[str, tuple[Any, list[str]]] = {
        "Gopher, quality": (GopherQualityFilter(language="en"), first),
        "without words with a letter": (GopherQualityFilter(max_non_alpha_words_ratio=None, language="en"), others),
        "Gopher, repetition": (GopherRepetitionFilter(language="en"), names[8:]),
        "C4": (C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=3, min_words_per_line=-1, max_word_length=-1,
                               filter_javascript=False, filter_policy=False, language="en"), ["c4"]),
        "FineWeb": (FineWebQualityFilter(char_duplicates_ratio=0.1, new_line_ratio=1e9, language="en"), ["fineweb"]),
    }  # fmt: skip
    for title, of in {"made by this file": texts(), "pages of novels": novels()}.items():
        of = [text for text in (repair.repaired(text)[0] for text in of) if text]
        size = sum(len(text.encode("utf-8", "replace")) for text in of) / 1e6
        print(f"{title}: {len(of):,} texts, {size:.1f} MB; dropped by both, by datatrove alone, by ours alone; MB/s of each")
        for name, (filter, rules) in pairs.items() if of else ():
            filter.filter(Document(text="So that its word splitter is loaded before the time is taken.", id=""))
            began = time.perf_counter()
            their = [filter.filter(Document(text=text, id="")) is not True for text in of]
            middle = time.perf_counter()
            ours = [bool(quality.problems(text, rules)) for text in of]
            end = time.perf_counter()
            count = Counter(zip(their, ours, strict=True))
            same = (count[True, True] + count[False, False]) / len(of)
            print(f"  {name:28} same {same:6.1%}   {count[True, True]:4} {count[True, False]:4} {count[False, True]:4}   "
                  f"{size / (middle - began):6.2f} {size / (end - middle):6.2f}")  # fmt: skip


def novels() -> list[str]:
    "Every third page of the twelve books, where they are."
    pages, page = [], ""
    for path in sorted((Path(__file__).parents[2] / "shared/data/pretrain/books").glob("*.md")):
        for paragraph in path.read_text().split("\n\n"):
            page += paragraph + "\n\n"
            if len(page) > 2000:
                pages, page = [*pages, page], ""
    return pages[::3]


def messages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    "(language, text): single messages of Sphinx in its translations, and five together."
    import sphinx

    random.seed(0)
    one, five = [], []
    for path in sorted((Path(sphinx.__file__).parent / "locale").glob("*/LC_MESSAGES/sphinx.mo")):
        with path.open("rb") as file:
            entries = vars(gettext.GNUTranslations(file))["_catalog"].items()
        plain = [" ".join(re.sub(r"%\([^)]*\)[sdr]|%[sdr]|<[^>]*>|[\"'`{}«»]", " ", text).split())
                 for key, text in entries if isinstance(key, str) and key and text not in ("", key)]  # fmt: skip
        plain = [text for text in plain if len(re.findall(r"[^\W\d_]", text)) >= 10]
        code = {"nb": "no", "nn": "no"}.get(path.parts[-3].split("_")[0].split("@")[0], path.parts[-3].split("_")[0].split("@")[0])
        if len(plain) >= 30:
            random.shuffle(plain)
            one += [(code, text) for text in plain[:40]]
            five += [(code, ". ".join(plain[start : start + 5])) for start in range(0, min(100, len(plain)), 5)]
    return one, five


def languages() -> None:
    from lingua import Language, LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
    identifier = language._identifier()

    def lingua(text: str) -> tuple[str, float]:
        best = detector.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value

    both = {one.iso_code_639_1.name.lower() for one in Language.all()} & set(identifier.labels) | {"no"}
    for title, rows in zip(("one message", "five messages"), messages(), strict=True):
        rows = [(code, text) for code, text in rows if code in both]
        for name, detect in {"py3langid": identifier.classify, "lingua": lingua}.items():
            began = time.perf_counter()
            found = [detect(text) for _, text in rows]
            seconds = time.perf_counter() - began
            right = [code == {"nb": "no", "nn": "no"}.get(guess, guess) for (code, _), (guess, _) in zip(rows, found, strict=True)]
            sure = [one for one, (_, probability) in zip(right, found, strict=True) if probability >= language.SURE]
            print(f"{title:14} {name:10} right {sum(right) / len(rows):.1%}, sure {len(sure) / len(rows):.1%}, right if sure "
                  f"{sum(sure) / len(sure):.1%}, {len(rows) / seconds:,.0f} texts/s")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["languages"]:
        languages()
    else:
        steps()
        beside_datatrove()
