"""Traffic made up for tests and benchmarks: spans of a help desk as they would have been recorded."""

import random
import time
from collections.abc import Iterator
from typing import Any

WORDS = "order refund cancel invoice address parcel delivery account password shipping return voucher".split()


def spans(traces: int, seconds: float, *, app: str = "rag", seed: int = 0, end_ns: int | None = None, failing: float = 0.02, slower: float = 1.0,
          words: list[str] = WORDS, model: str = "gpt-5-mini") -> Iterator[dict[str, Any]]:
    """Four spans a trace, evenly over the `seconds` before `end_ns`: the request, a search, a model call, a tool."""
    draw, end = random.Random(seed), time.time_ns() if end_ns is None else end_ns
    for number in range(traces):
        start, trace_id = int(end - seconds * 1e9 * (1 - number / traces)), f"{draw.getrandbits(128):032x}"
        took, failed = int(draw.lognormvariate(-1, 0.5) * slower * 1e9), draw.random() < failing
        question = f"How do I {draw.choice(words)} my {draw.choice(words)} number {draw.randrange(900)}?"
        root = f"{draw.getrandbits(64):016x}"
        common = {"trace_id": trace_id, "status": "error" if failed else "ok", "error": "ModelError: <b>down</b>" if failed else None}
        blank = dict.fromkeys(["provider", "model", "input_tokens", "output_tokens", "cost", "attributes"])
        text = f"You {draw.choice(words)} it. " * draw.randint(1, 6)
        steps = [(root, None, app, "app", took, f'"{question}"', None if failed else f'"{text}"', {}),
                 (f"{draw.getrandbits(64):016x}", root, "search kb", "retrieval", took // 9, f'"{question}"', '[{"id": "faq#1", "score": 1.5}]', {}),
                 (f"{draw.getrandbits(64):016x}", root, f"chat {model}", "chat", took // 2,
                  f'[{{"role": "user", "parts": [{{"type": "text", "content": "[1] faq#1\\n{text}\\n\\nQuestion: {question}"}}]}}]', f'"{text}"',
                  {"provider": "openai", "model": model, "input_tokens": draw.randint(300, 900), "output_tokens": draw.randint(20, 90), "cost": draw.random() / 900}),
                 (f"{draw.getrandbits(64):016x}", root, "log", "function", 1000, None, None, {})]
        for span_id, parent, name, kind, duration, asked, said, more in steps:
            yield {**common, "span_id": span_id, "parent_id": parent, "name": name, "kind": kind, "start_ns": start, "duration_ns": duration,
                   "input": asked, "output": said, **blank, **more}


def fill(workspace: Any, traces: int, seconds: float = 3600, **more: Any) -> None:
    """Write the spans of so many traces."""
    batch: list[dict[str, Any]] = []
    for span in spans(traces, seconds, **more):
        batch.append(span)
        if len(batch) == 8000:
            workspace.records.write("spans", batch)
            batch = []
    workspace.records.write("spans", batch)
