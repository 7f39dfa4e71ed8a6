"""Tokens per second of one stream and of eight at once, by server, interleaved; one process a server, the same random Llama behind each.

python benchmarks/serving.py                 # ops.deploy.serve beside `transformers serve`, without and with its continuous batching
python benchmarks/serving.py --rounds 5
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TOKENS, STREAMS = 64, 8
PROMPT = "Every stage function works the same way in a notebook cell, a script, and a job, and so does number {}."


def build(folder: Path) -> int:
    "A Llama with random weights and its tokenizer; returns its number of parameters."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = (f"{a}{b}{c}" for a in "bcdfghklmnprst" for b in "aeiou" for c in "bcdfghklmnprst")
    tokenizer.train_from_iterator([" ".join(words), PROMPT], trainer)
    template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, max_position_embeddings=1024,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


@contextlib.contextmanager
def transformers_serve(folder: Path, *flags: str) -> Iterator[tuple[str, str]]:
    "The alternative: transformers' own server."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *flags,
    ]
    with open(folder / f"serve{port}.log", "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        wait_until_it_listens(port, child)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        child.kill()
        child.wait()


def wait_until_it_listens(port: int, child: subprocess.Popen) -> None:
    for _ in range(600):
        assert child.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[tuple[str, str]]:
    import llmops_nb as ops

    with ops.deploy.serve(f"hf:{folder}", name="ours") as url:
        yield url, "ours"


async def streams(url: str, model: str, many: int) -> float:
    "Tokens per second of `many` streams together."
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=300) as client:

        async def one(number: int) -> int:
            messages = [{"role": "user", "content": PROMPT.format(number)}]
            count = 0
            asked = await client.chat.completions.create(
                model=model, messages=messages, max_tokens=TOKENS, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in asked:
                count = chunk.usage.completion_tokens if chunk.usage else count
            assert count, "the server did not count"
            return count

        began = time.perf_counter()
        counts = await asyncio.gather(*(one(number) for number in range(many)))
        return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import llmops_nb as ops

    with tempfile.TemporaryDirectory() as folder, ops.Workspace(Path(folder) / "ws"), contextlib.ExitStack() as servers:
        path = Path(folder) / "llama"
        size = build(path)
        running = {
            "ops.deploy.serve": servers.enter_context(ours(path)),
            "transformers serve": servers.enter_context(transformers_serve(path)),
            "transformers serve, batching": servers.enter_context(transformers_serve(path, "--continuous-batching")),
        }
        for url, model in running.values():
            asyncio.run(streams(url, model, 2))  # loaded and warm
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for name, (url, model) in running.items():
                for many in (1, STREAMS):
                    found.setdefault((name, many), []).append(asyncio.run(streams(url, model, many)))
    print(
        f"{size / 1e6:.0f} M parameters, {TOKENS} tokens a stream, median of {options.rounds} interleaved rounds; tokens per second"
    )
    print(f"{'server':30} {'1 stream':>9} {f'{STREAMS} streams':>10} {'ratio':>6}")
    for name in running:
        one, eight = (statistics.median(found[name, many]) for many in (1, STREAMS))
        ratio = statistics.median(b / a for a, b in zip(found[name, 1], found[name, STREAMS], strict=True))
        print(f"{name:30} {one:9.1f} {eight:10.1f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
