"""Traffic made up for tests and benchmarks: spans of a help desk as they would have been recorded."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

WORDS = "order refund cancel invoice address parcel delivery account password shipping return voucher".split()
BLANK = dict.fromkeys(["provider", "model", "input_tokens", "output_tokens", "cost", "attributes"])


def spans(
    traces: int,
    seconds: float,  # over which they are spread, ending at `end_ns`
    *,
    app: str = "rag",
    seed: int = 0,
    end_ns: int | None = None,
    failing: float = 0.02,
    slower: float = 1.0,
    words: list[str] = WORDS,
    model: str = "gpt-5-mini",
) -> Iterator[dict[str, Any]]:
    """Four spans a trace: the request, a search, a model call, a tool."""
    draw, end = random.Random(seed), time.time_ns() if end_ns is None else end_ns
    for number in range(traces):
        start, took = int(end - seconds * 1e9 * (1 - number / traces)), int(draw.lognormvariate(-1, 0.5) * slower * 1e9)
        failed, root = draw.random() < failing, f"{draw.getrandbits(64):016x}"
        question = f"How do I {draw.choice(words)} my {draw.choice(words)} number {draw.randrange(900)}?"
        answer = f"You {draw.choice(words)} it. " * draw.randint(1, 6)
        prompt = f"[1] faq#1\n{answer}\n\nQuestion: {question}"
        messages = [{"role": "user", "parts": [{"type": "text", "content": prompt}]}]
        usage = {"provider": "openai", "model": model, "input_tokens": draw.randint(300, 900), "output_tokens": draw.randint(20, 90),
                 "cost": draw.random() / 900}
        common = {"trace_id": f"{draw.getrandbits(128):032x}", "status": "error" if failed else "ok",
                  "error": "ModelError: <b>down</b>" if failed else None, "start_ns": start, **BLANK}
        steps = [("app", app, took, question, None if failed else answer, {}),
                 ("retrieval", "search kb", took // 9, question, [{"id": "faq#1", "score": 1.5}], {}),
                 ("chat", f"chat {model}", took // 2, messages, answer, usage),
                 ("function", "log", 1000, None, None, {})]
        for kind, name, duration, asked, said, more in steps:
            ids = {"span_id": root, "parent_id": None} if kind == "app" else {"span_id": f"{draw.getrandbits(64):016x}", "parent_id": root}
            texts = {key: None if value is None else json.dumps(value) for key, value in (("input", asked), ("output", said))}
            yield {**common, **ids, "name": name, "kind": kind, "duration_ns": duration, **texts, **more}


def fill(workspace: Any, traces: int, seconds: float = 3600, **more: Any) -> None:
    """Write the spans of so many traces."""
    batch: list[dict[str, Any]] = []
    for span in spans(traces, seconds, **more):
        batch.append(span)
        if len(batch) == 8000:
            workspace.records.write("spans", batch)
            batch = []
    workspace.records.write("spans", batch)
