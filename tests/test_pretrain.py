"""A real model of another format tells its story; training is killed and goes on; rubbish is refused."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from llmops_nb import pretrain
from llmops_nb.compute.local_models import load_model
from llmops_nb.errors import InputError, StorageError
from llmops_nb.storage import registry

TEXT = ["The cat sat on the mat, and the dog sat by the door. " * 8, "A bird sang in the tree until the evening came. " * 8] * 30
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def texts() -> list[str]:
    return [f"{number}. {text}" for number, text in enumerate(TEXT)]


def test_stories260k_tells_llama2c_s_story(ws, shared: Path) -> None:
    import torch

    made = pretrain.import_llama2c(shared / "models" / "stories260K.bin", shared / "models" / "tok512.bin", "stories")
    model, tokenizer = load_model(made.spec)
    ids = torch.tensor([[tokenizer.bos_token_id]])
    new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=256, do_sample=False)
    assert tokenizer.decode(new[0], skip_special_tokens=True).strip() == (shared / "models" / "expected.txt").read_text().strip()


def test_stories260k_reads_text_back(ws, shared: Path) -> None:
    made = pretrain.import_llama2c(shared / "models" / "stories260K.bin", shared / "models" / "tok512.bin", "stories")
    tokenizer = load_model(made.spec)[1]
    story = (shared / "models" / "expected.txt").read_text()
    assert tokenizer.decode(tokenizer(story)["input_ids"], skip_special_tokens=True) == story


def test_killed_at_five_random_moments_the_losses_are_those_of_one_run(ws) -> None:
    corpus = pretrain.pack(texts(), pretrain.tokenizer(texts(), 400), validation=0.2)
    options = {"size": SMALL, "max_tokens": 32, "batch_size": 4, "steps": 150, "checkpoint_seconds": 0.05, "evaluate_every": 50}
    whole = pretrain.train(corpus, name="whole", **options)
    assert whole.result(120) == "registry:whole@1"
    moments, job = random.Random(3), pretrain.train(corpus, name="broken", **options)
    for _ in range(5):
        if job.state != "running":
            break
        job.wait_for("started", 60)
        time.sleep(moments.uniform(0.0, 4.0))
        os.kill(job.events("started")[-1]["pid"], signal.SIGKILL)
        while job.state == "running":
            time.sleep(0.01)
        job = pretrain.train(corpus, name="broken", **options)
    assert job.result(120) == "registry:broken@1"
    columns = ["step", "loss", "learning_rate", "gradient_norm", "evaluation_loss", "bits_per_byte"]
    assert job.metrics()[columns].equals(whole.metrics()[columns])
    weights = [(registry.get(name).path / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_corpus_has_one_name_and_one_order(ws) -> None:
    words = pretrain.tokenizer(texts(), 400)
    first = pretrain.pack(texts(), words)
    assert pretrain.pack(iter(texts()), words) == first
    assert pretrain.pack(texts()[:-1], words).name != first.name
    blocks = pretrain.blocks_of(first, "train", batch_size=3, max_tokens=16)
    seen = [tuple(row) for position in range(blocks.blocks // 3) for row in blocks(position)["input_ids"]]
    assert len(set(seen)) == len({tuple(row) for batch in blocks.once() for row in batch["input_ids"]}) - (blocks.blocks % 3)


@pytest.mark.parametrize("wrong", ["one string", [], ["", "  "], [None, 3]])
def test_what_is_no_text_is_refused(ws, wrong) -> None:
    with pytest.raises(InputError):
        pretrain.train(wrong, name="nothing")


def test_a_corpus_that_is_gone_is_said(ws) -> None:
    import shutil

    corpus = pretrain.pack(texts(), pretrain.tokenizer(texts(), 400), validation=0.2)
    shutil.rmtree(corpus.path)
    with pytest.raises(StorageError, match="corpus of this run is gone"):
        pretrain.train(corpus, name="gone", max_tokens=16)


def test_a_full_disk_at_a_checkpoint_is_one_clear_end_and_the_job_goes_on_with_more_room(small_disk) -> None:
    import subprocess

    import llmops_nb as ops

    disk = small_disk("6m")
    with ops.Workspace(disk / "ws"):
        corpus = pretrain.pack(texts(), pretrain.tokenizer(texts(), 400), validation=0.2)
        shape = {**SMALL, "hidden_size": 128, "intermediate_size": 256}
        options = {"size": shape, "max_tokens": 32, "batch_size": 4, "steps": 40, "checkpoint_seconds": 0.0}
        job = pretrain.train(corpus, name="full", **options)
        with pytest.raises(ops.jobs.JobFailed, match="(?i)space|disk"):
            job.result(120)
        before = list(job.metrics().step)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert pretrain.train(corpus, name="full", **options).result(120) == "registry:full@1"
        assert list(job.metrics().step) == list(range(1, 41)) and before


@pytest.mark.slow
def test_two_processes_learn_what_one_does(ws) -> None:
    corpus = pretrain.pack(texts(), pretrain.tokenizer(texts(), 400), validation=0.2)
    options = {"size": SMALL, "max_tokens": 32, "batch_size": 4, "steps": 12, "precision": "float32"}
    one, two = pretrain.train(corpus, name="one", **options), pretrain.train(corpus, name="two", processes=2, **options)
    one.result(120), two.result(120)
    assert (one.metrics().loss - two.metrics().loss).abs().max() < 1e-3
