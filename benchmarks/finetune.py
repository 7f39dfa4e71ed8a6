"""LoRA on a 135-million-parameter Llama on the CPU: tokens a second of our loop beside TRL's SFTTrainer.

python benchmarks/finetune.py [rounds]

Same base (random weights in the shape of SmolLM2-135M), rows, chat template, loss on the assistant's tokens only, adapter and learning
rate. Each run is a fresh process, and the contestants take turns. The figure counts tokens without padding, over the wall time from the
end of the second step to the end of the last. Afterwards each tuned model is put to the same held-out rows by the same function: the
losses should agree, apart from the order of the rows.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, HELD_OUT, BATCH, SKIPPED, RATE, RANK = 64, 24, 8, 2, 1e-3, 16
CONTESTANTS = ("TRL, its defaults", "TRL, no checkpointing", "TRL, and our batches", "TRL, and weights in bf16", "ours")


def conversations() -> list[dict[str, Any]]:
    "Questions of very different lengths with shorter answers that can be learned: the words of the question in another order."
    import numpy as np

    random, rows = np.random.default_rng(0), []
    words = [f"{a}{b}{c}" for a in "bcdfghklmnprst" for b in "aeiou" for c in "bcdfghklmnprst"]
    for length in random.lognormal(4.3, 0.6, ROWS + HELD_OUT).clip(16, 400).astype(int):
        asked = random.choice(words[:200], length)
        answer = " ".join(sorted(asked)[: max(8, length // 3)])
        rows.append({"messages": [{"role": "user", "content": " ".join(asked)}, {"role": "assistant", "content": answer}]})
    return rows


def write_base(folder: str) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from llmops_nb.finetune import with_template

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([turn["content"] for row in conversations() for turn in row["messages"]], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    with_template(fast).save_pretrained(folder)


def batches_of(tokenizer: Any) -> Any:
    from llmops_nb.compute.chat_tokens import ChatBatches, encode_rows

    return ChatBatches(encode_rows(conversations()[:ROWS], tokenizer), batch_size=BATCH, pad_id=tokenizer.pad_token_id)


def ours(base: str, folder: str) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from llmops_nb.compute.jobs import JobContext
    from llmops_nb.compute.training import TrainingOptions, fit
    from llmops_nb.finetune import prepared

    tokenizer = AutoTokenizer.from_pretrained(base)
    batches, model = batches_of(tokenizer), prepared(f"hf:{base}", "lora", rank=RANK)
    read = [int((batches(step)["input_ids"] != tokenizer.pad_token_id).sum()) for step in range(len(batches))]
    options = TrainingOptions(
        steps=len(batches), learning_rate=RATE, warmup=0, schedule="constant", weight_decay=0.0, betas=(0.9, 0.999), checkpoint_seconds=1e9
    )
    fit(model, batches, options, JobContext(Path(folder)))
    events = [event for event in map(json.loads, (Path(folder) / "events.jsonl").read_text().splitlines()) if event["kind"] == "report"]
    losses = [event["metrics"]["loss"] for event in events]
    return {"ends": [event["time"] for event in events], "read": read, "losses": losses, "loss": held_out_loss(model, tokenizer)}


def trl(base: str, folder: str, *, defaults: bool, our_order: bool, bf16: bool) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from llmops_nb.finetune import prepared

    tokenizer = AutoTokenizer.from_pretrained(base)
    ends: list[float] = []
    read: list[int] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            read.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest)

    model, rows = prepared(f"hf:{base}", "lora", rank=RANK), conversations()[:ROWS]  # the very same adapter
    if bf16:
        model = model.to(torch.bfloat16)
    if our_order:
        batches = batches_of(tokenizer)
        rows = [rows[place] for place in batches._order(0).flatten()]
    arguments = SFTConfig(
        folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE, lr_scheduler_type="constant", use_cpu=True,
        assistant_only_loss=True, gradient_checkpointing=defaults, train_sampling_strategy="sequential" if our_order else "random",
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = Counting(model=model, processing_class=tokenizer, args=arguments, train_dataset=Dataset.from_list(rows), callbacks=[Clock()])
    trainer.train()
    return {"ends": ends, "read": read, "losses": losses, "loss": held_out_loss(trainer.model, tokenizer)}


def held_out_loss(model: Any, tokenizer: Any) -> float:
    from llmops_nb.compute.chat_tokens import ChatBatches, encode_rows
    from llmops_nb.compute.training import evaluate

    rows = encode_rows(conversations()[ROWS:], tokenizer)
    return evaluate(model, ChatBatches(rows, batch_size=BATCH, pad_id=tokenizer.pad_token_id))["evaluation_loss"]


def run(name: str, base: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if name == "ours":
            return ours(base, folder)
        place = CONTESTANTS.index(name)
        return trl(base, folder, defaults=place == 0, our_order=place >= 2, bf16=place == 3)


def rate(one: dict[str, Any]) -> float:
    return sum(one["read"][SKIPPED:]) / (one["ends"][-1] - one["ends"][SKIPPED - 1])


def child(*arguments: str) -> str:
    from llmops_nb.compute.jobs import ENVIRONMENT

    environment = {**ENVIRONMENT, **os.environ} if "ours" in arguments else None
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main(rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as base:
        child("--write", base)
        for _ in range(rounds):
            for name in CONTESTANTS:
                found[name].append(json.loads(child("--run", name, base)))
    rates = {name: statistics.median(map(rate, runs)) for name, runs in found.items()}
    best = max(rates[name] for name in CONTESTANTS if name != "ours")
    print(f"LoRA of rank {RANK}, {ROWS} rows in batches of {BATCH}, {rounds} rounds, taking turns")
    for name, runs in found.items():
        print(f"{name:32} {rates[name]:7,.0f} tokens/s   {rates[name] / rates[CONTESTANTS[0]]:.2f} x TRL's defaults   "
              f"{rates[name] / best:.2f} x the fastest TRL   held-out loss {runs[-1]['loss']:.3f}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_base(sys.argv[2])
    elif sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(*sys.argv[2:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
