"""Fine-tuning under what happens to it: killed, a full disk, damaged or unusable bases, rows that teach nothing, and what does not fit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmops_nb as ops
from llmops_nb import finetune
from llmops_nb.errors import InputError, MissingExtra, OpsError
from llmops_nb.storage import registry

ROWS = [{"input": f"Where is order {n}?", "expected": "track_order"} for n in range(24)]
ROWS += [{"input": f"I want my money back for {n}", "expected": "get_refund"} for n in range(24)]


def write_base(folder: Path, template: bool = True, width: int = 32) -> None:
    """A tiny Llama with random weights that reads single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    set_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(["<|end|>", *letters])}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", pad_token="<|end|>")
    if template:
        tokenizer.chat_template = finetune.PLAIN_TEMPLATE
    config = LlamaConfig(vocab_size=257, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def base(ws, tmp_path: Path) -> str:
    write_base(tmp_path / "base")
    return registry.save("base", tmp_path / "base").spec


OPTIONS = {"batch_size": 8, "max_tokens": 64, "learning_rate": 1e-2, "steps": 60, "rank": 4}


def test_five_kills_at_random_moments_end_as_one_run_does(ws, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = finetune.jobs.start

    def often_saved(run, arguments, **options):
        return start(run, arguments | {"options": arguments["options"] | {"checkpoint_seconds": 0.1}}, **options)

    monkeypatch.setattr(finetune.jobs, "start", often_saved)
    whole = finetune.train(base, ROWS, name="whole", **OPTIONS)
    assert whole.result(120) == "registry:whole@1"
    random_ = random.Random(5)
    for step in sorted(random_.sample(range(2, 55), 5)):
        job = finetune.train(base, ROWS, name="broken", **OPTIONS)
        while max((event["step"] for event in job.events("report")), default=0) < step:
            assert job.state in ("starting", "running")
            time.sleep(0.005)
        time.sleep(random_.uniform(0.0, 0.05))
        os.kill(job.events("started")[-1]["pid"], signal.SIGKILL)
        while job.state == "running":
            time.sleep(0.01)
        assert job.state == "lost"
    job = finetune.train(base, ROWS, name="broken", **OPTIONS)
    assert job.result(120) == "registry:broken@1"
    assert len(job.events("started")) == 6 and job.events("resumed")
    columns = ["step", "loss", "learning_rate", "gradient_norm"]
    assert job.metrics()[columns].equals(whole.metrics()[columns])
    weights = [(registry.get(name).path / "adapter_model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_killed_after_publishing_it_publishes_no_second_time(ws, base: str) -> None:
    options = OPTIONS | {"steps": 3, "alias": "candidate"}
    job = finetune.train(base, ROWS, name="once", **options)
    assert job.result(120) == "registry:once@1"
    log = job.folder / "events.jsonl"
    kept = [line for line in log.read_text().splitlines(keepends=True) if '"ended"' not in line]
    log.write_text("".join(kept))  # as if it had been killed before it could say so, and before the alias
    (registry.get("once").path.parent / "aliases.json").unlink()
    assert job.state == "lost"
    assert finetune.train(base, ROWS, name="once", **options).result(120) == "registry:once@1"
    assert list(registry.models().model) == ["registry:base@1", "registry:once@1"] and registry.aliases("once") == {"candidate": 1}


def test_a_full_disk_at_a_checkpoint_is_one_clear_end_and_more_room_continues(small_disk, tmp_path: Path) -> None:
    disk = small_disk("4m")
    write_base(tmp_path / "base", width=128)
    with ops.Workspace(disk / "ws"):
        options = OPTIONS | {"method": "full", "steps": 6}
        job = finetune.train(f"hf:{tmp_path / 'base'}", ROWS, name="full", **options)
        with pytest.raises(ops.jobs.JobFailed, match="(?i)space|disk"):
            job.result(120)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert finetune.train(f"hf:{tmp_path / 'base'}", ROWS, name="full", **options).result(120) == "registry:full@1"


def test_a_base_without_a_chat_template_gets_the_plain_one_for_good(ws, tmp_path: Path) -> None:
    write_base(tmp_path / "bare", template=False)
    spec = finetune.train(f"hf:{tmp_path / 'bare'}", ROWS, name="bare", **OPTIONS | {"steps": 2}).result(120)
    from llmops_nb.compute.local_models import load_tokenizer

    assert load_tokenizer(spec).chat_template == finetune.PLAIN_TEMPLATE


def test_an_adapter_and_its_merged_model_say_the_same(ws, base: str) -> None:
    import torch

    from llmops_nb.compute.local_models import load_model

    spec = finetune.train(base, ROWS, name="tuned", **OPTIONS | {"steps": 20}).result(120)
    whole = finetune.merge(spec)
    ids = torch.tensor([list(range(40, 60))])
    with torch.inference_mode():
        one, two = (load_model(name)[0](input_ids=ids).logits for name in (spec, whole.spec))
    assert torch.allclose(one, two, atol=1e-4) and whole.parent == spec and not registry.is_adapter(whole.path)


MISTAKES = {
    "nothing to learn": ([{"messages": [{"role": "user", "content": "Hello?"}]}], {}, "Every label is masked"),
    "cut before the answer": (ROWS, {"max_tokens": 5}, "Every label is masked"),
    "no rows": ([], {}, "nothing to train on"),
    "no conversation": ([{"question": "x"}], {}, "Row 0"),
    "no method": (ROWS, {"method": "magic"}, "method is out of range"),
    "no layer": (ROWS, {"targets": ["qkv"]}, "does not fit this model"),
    "too large": (ROWS, {"batch_size": 10**7}, "does not fit into memory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_before_a_process_starts(ws, base: str, mistake: str) -> None:
    rows, options, said = MISTAKES[mistake]
    with pytest.raises(InputError, match=said):
        finetune.train(base, rows, name="never", **OPTIONS | options)
    assert ops.jobs.table().empty


def test_force_starts_what_the_plan_says_does_not_fit(ws, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = finetune.hardware.plan
    monkeypatch.setattr(finetune.hardware, "plan", lambda *args, **options: plan(*args, **options | {"batch_size": 10**7}))
    options = OPTIONS | {"steps": 2}
    with pytest.raises(InputError, match="force=True"):
        finetune.train(base, ROWS, name="brave", **options)
    assert finetune.train(base, ROWS, name="brave", force=True, **options).result(120) == "registry:brave@1"


def test_a_damaged_base_is_named(ws, tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        finetune.train(f"hf:{tmp_path / 'base'}", ROWS, name="never", **OPTIONS)
    assert ops.jobs.table().empty


def test_only_four_bits_need_bitsandbytes(ws, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert finetune.prepared(base, "full") and finetune.prepared(base, "lora", rank=4).peft_config
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        finetune.prepared(base, "qlora")


def test_a_loss_that_is_no_number_ends_with_what_to_do(ws, base: str) -> None:
    job = finetune.train(base, ROWS, name="wild", **OPTIONS | {"method": "full", "learning_rate": 1e30})
    with pytest.raises(ops.jobs.JobFailed, match="no longer a number"):
        job.result(120)


def test_one_name_is_one_job(ws, base: str) -> None:
    job = finetune.train(base, ROWS, name="mine", **OPTIONS | {"steps": 4000})
    try:
        assert len(finetune.train(base, ROWS, name="mine", **OPTIONS | {"steps": 4000}).events("started")) == 1
        with pytest.raises(OpsError, match="A job of this name is running"):
            finetune.train(base, ROWS, name="mine", **OPTIONS | {"steps": 7})
    finally:
        job.stop()
    assert job.state == "stopped"


def test_real_intents_are_learned(ws, base: str, shared: Path) -> None:
    import pandas as pd

    table = pd.read_csv(shared / "support" / "bitext_train.csv").sample(200, random_state=0)
    rows = table.rename(columns={"instruction": "input", "intent": "expected"})[["input", "expected"]].to_dict("records")
    job = finetune.train(base, rows, name="intents", **OPTIONS | {"method": "full", "steps": 60, "max_tokens": 160})
    assert job.result(180) == "registry:intents@1"
    loss = job.metrics().loss
    assert loss.iloc[-5:].mean() < 0.7 * loss.iloc[:3].mean()
