"""Pretraining a 10-million-parameter Llama on the CPU: tokens a second of our loop beside transformers' Trainer.

python benchmarks/pretrain.py [rounds]

Same weights, rows and batch. Each run is a fresh process, and the contestants take turns. The figure is the median over the steps
after the first four, so that compiling is not in it; what that costs is printed beside it. The last losses are for orientation:
the Trainer shuffles the rows.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, SKIPPED, BATCH, TOKENS, VOCABULARY = 16, 4, 8, 256, 4096
CONTESTANTS = ("Trainer", "Trainer, bf16", "ours, not compiled", "ours")


def model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=320,
            intermediate_size=896,
            num_hidden_layers=8,
            num_attention_heads=5,
            max_position_embeddings=TOKENS,
            tie_word_embeddings=True,
        )
    )


def rows():
    import numpy as np

    return np.random.default_rng(0).zipf(1.3, (STEPS * BATCH, TOKENS + 1)).clip(max=VOCABULARY - 1)


def ours(compiled: bool) -> dict:
    import torch

    from llmops_nb.compute.jobs import JobContext
    from llmops_nb.compute.training import TrainingOptions, fit

    data = rows()

    class Batches:
        fixed_shape = True

        def __call__(self, position: int) -> dict:
            part = data[position * BATCH : (position + 1) * BATCH]
            return {"input_ids": part[:, :-1].copy(), "targets": part[:, 1:].copy()}

    with tempfile.TemporaryDirectory() as folder:
        job = JobContext(Path(folder))
        options = TrainingOptions(
            steps=STEPS,
            learning_rate=1e-3,
            warmup=0,
            schedule="constant",
            weight_decay=0.0,
            compile=compiled,
            checkpoint_seconds=1e9,
        )
        fit(model(), Batches(), options, job)
        reports = [
            event["metrics"]
            for event in map(json.loads, (Path(folder) / "events.jsonl").read_text().splitlines())
            if event["kind"] == "report"
        ]
    times = [BATCH * TOKENS / report["tokens_per_second"] for report in reports]
    assert torch.get_num_threads() >= 1
    return {"times": times, "loss": reports[-1]["loss"]}


def trainer(bf16: bool) -> dict:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    data, times, losses = rows(), [], []

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, place: int) -> dict:
            return {
                "input_ids": torch.from_numpy(data[place, :-1].copy()),
                "labels": torch.from_numpy(data[place, :-1].copy()),
            }

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__) -> None:
            times.append(time.perf_counter() - self.began)

        def on_log(self, args, state, control, logs=None, **__) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            bf16=bf16,
            use_cpu=True,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            adam_beta2=0.95,
            optim="adamw_torch_fused",
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        Trainer(model(), arguments, train_dataset=Rows(), callbacks=[Clock()]).train()
    return {"times": times, "loss": losses[-1]}


def run(name: str) -> dict:
    return trainer("bf16" in name) if name.startswith("Trainer") else ours("not" not in name)


def main(rounds: int) -> None:
    from llmops_nb.compute.jobs import ENVIRONMENT

    found: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name in CONTESTANTS:
            environment = {**ENVIRONMENT, **os.environ} if "ours" in name else None
            done = subprocess.run([sys.executable, __file__, "--run", name], capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{sum(p.numel() for p in model().parameters()) / 1e6:.1f} M parameters, {BATCH} x {TOKENS} tokens, {rounds} rounds, taking turns"
    )
    rate = {
        name: BATCH * TOKENS / statistics.median(t for one in runs for t in one["times"][SKIPPED:])
        for name, runs in found.items()
    }
    for name, runs in found.items():
        start = statistics.median(sum(one["times"][:SKIPPED]) for one in runs)
        print(
            f"{name:20} {rate[name]:8,.0f} tokens/s   {rate[name] / rate['Trainer']:.2f} x Trainer   "
            f"{rate[name] / rate['Trainer, bf16']:.2f} x Trainer, bf16   "
            f"first {SKIPPED} steps {start:5.1f} s   last loss {runs[-1]['loss']:.3f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
