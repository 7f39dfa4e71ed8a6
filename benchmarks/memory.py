"""Does a memory plan hold? The planned peak beside the measured one, each run in a fresh process on the CPU.

python benchmarks/memory.py                # the table
python benchmarks/memory.py "lora float32" # one row

Measured is how far the resident memory of a process rose at its highest (VmHWM, reset once torch, transformers and the training loop
were imported) over where it stood then: weights read from a folder by `load_model`, then three steps of the project's own training loop
with its checkpoint, or a generated reply, in the environment that jobs have. Planned is `hardware.plan`, made from the config without
weights. The allowance in it was chosen by looking at the first nine rows; the last four were measured afterwards.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048,
         "num_hidden_layers": 12, "num_attention_heads": 12}  # 97.5 M parameters  # fmt: skip
WIDE = MODEL | {"vocab_size": 32768, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
OTHER = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 16384,
    "n_embd": 640,
    "n_layer": 10,
    "n_head": 10,
    "n_positions": 512,
}
UNSEEN = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 24000, "hidden_size": 896, "intermediate_size": 2432,
    "num_hidden_layers": 14, "num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "full float32": {"method": "full", "batch_size": 2, "max_tokens": 512, "precision": "float32"},
    "full bfloat16": {"method": "full", "batch_size": 2, "max_tokens": 512, "precision": "bfloat16"},
    "full, checkpointing": {"method": "full", "batch_size": 4, "max_tokens": 512, "precision": "bfloat16", "gradient_checkpointing": True},
    "full, wide vocabulary": {"method": "full", "batch_size": 4, "max_tokens": 256, "precision": "float32"},
    "lora float32": {"method": "lora", "batch_size": 4, "max_tokens": 512, "precision": "float32"},
    "qlora NF4": {"method": "qlora", "batch_size": 4, "max_tokens": 512, "precision": "bfloat16"},
    "inference": {"method": "inference", "batch_size": 4, "max_tokens": 1024, "precision": "float32"},
    "lora, another model": {"method": "lora", "batch_size": 2, "max_tokens": 512, "precision": "float32"},
    "full, another model": {"method": "full", "batch_size": 2, "max_tokens": 512, "precision": "float32"},
    "unseen: lora bfloat16": {"method": "lora", "batch_size": 3, "max_tokens": 768, "precision": "bfloat16"},
    "unseen: full, one long row": {"method": "full", "batch_size": 1, "max_tokens": 1024, "precision": "bfloat16"},
    "unseen: lora, checkpointing": {
        "method": "lora",
        "batch_size": 6,
        "max_tokens": 384,
        "precision": "float32",
        "gradient_checkpointing": True,
    },
    "unseen: inference": {"method": "inference", "batch_size": 2, "max_tokens": 1500, "precision": "float32"},
}


def config(name: str) -> dict[str, Any]:
    return UNSEEN if "unseen" in name else WIDE if "wide" in name else OTHER if "another" in name else MODEL


def planned(name: str) -> int:
    from llmops_nb.compute import hardware

    return hardware.plan(config(name), device="cpu", **CASES[name]).total


def write_model(name: str, folder: str) -> None:
    import transformers
    from tokenizers import Tokenizer, models

    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config(name))).save_pretrained(folder)
    vocabulary = {"<s>": 0, "a": 1}
    transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), eos_token="<s>").save_pretrained(folder)


def measured(name: str, folder: str) -> int:
    "The rise of this process's resident memory, in bytes."
    import bitsandbytes  # noqa: F401
    import numpy as np
    import peft
    import torch
    from transformers import GPT2LMHeadModel, LlamaForCausalLM, Qwen3ForCausalLM  # noqa: F401

    from llmops_nb.compute import training
    from llmops_nb.compute.jobs import JobContext
    from llmops_nb.compute.local_models import load_model

    case, four = CASES[name], {}
    method, shape = case["method"], (case["batch_size"], case["max_tokens"])
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    if method == "qlora":
        from transformers import BitsAndBytesConfig

        four = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                          bnb_4bit_compute_dtype=torch.bfloat16), "dtype": torch.bfloat16}  # fmt: skip
    model, _ = load_model(f"hf:{folder}", **four)
    if method == "inference":
        prompt = torch.randint(2, 8192, (shape[0], shape[1] - 16))
        with torch.inference_mode():
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0
            )
        return status("VmHWM") - before
    if case.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if method == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if method != "full":
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))

    class Batches:
        fixed_shape = True

        def __call__(self, position: int) -> dict[str, np.ndarray]:
            ids = np.random.default_rng(position).integers(0, config(name)["vocab_size"], (shape[0], shape[1] + 1))
            return {"input_ids": ids[:, :-1].copy(), "targets": ids[:, 1:].copy()}

    options = training.TrainingOptions(steps=3, precision=case["precision"], compile=False)
    training.fit(model, Batches(), options, JobContext(Path(folder) / "job"))
    return status("VmHWM") - before


def status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def child(kind: str, name: str, folder: str = "") -> str:
    from llmops_nb.compute.jobs import ENVIRONMENT

    command = [sys.executable, __file__, f"--{kind}", name, folder]
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, **os.environ})
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main(names: list[str]) -> None:
    print(f"{'':28}{'planned':>10}{'measured':>10}{'planned / measured':>22}")
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            child("write", name, folder)
            plan, peak = (json.loads(child(kind, name, folder)) for kind in ("planned", "measured"))
        print(f"{name:28}{plan / 1e6:7,.0f} MB{peak / 1e6:7,.0f} MB{plan / peak:22.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_model(*sys.argv[2:])
    elif sys.argv[1:2] == ["--planned"]:
        print(planned(sys.argv[2]))
    elif sys.argv[1:2] == ["--measured"]:
        print(measured(*sys.argv[2:]))
    else:
        main(sys.argv[1:])
