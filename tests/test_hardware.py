"""What a machine has and what fits: containers, drivers, methods, architectures; the plan beside what torch really allocates."""

import json
from pathlib import Path

import pytest
from conftest import finish, start

import llmops_nb as ops
from llmops_nb.compute import hardware
from llmops_nb.errors import InputError, NotFound
from llmops_nb.storage import registry

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
OPTIONS = {"batch_size": 2, "max_tokens": 64, "device": "cpu"}


def need(config=TINY, **options) -> dict:
    plan = hardware.plan(config, **OPTIONS | options)
    return dict(zip(plan.parts.part, plan.parts.bytes, strict=True))


def test_a_container_has_what_its_group_may_use(tmp_path: Path) -> None:
    groups, own = tmp_path / "groups", tmp_path / "own"
    (groups / "docker" / "a").mkdir(parents=True)
    own.write_text("0::/docker/a\n")
    (groups / "docker" / "a" / "memory.max").write_text("max\n")
    (groups / "docker" / "memory.max").write_text("4000000000\n")
    (groups / "docker" / "memory.current").write_text("3000000000\n")
    (groups / "docker" / "memory.stat").write_text("anon 5\ninactive_file 1000000000\n")
    assert list(hardware._group_limits(groups, own)) == [(4_000_000_000, 2_000_000_000)]  # the cache is given back
    own.write_text("9:cpu,memory:/docker\n")
    (groups / "memory" / "docker").mkdir(parents=True)
    (groups / "memory" / "docker" / "memory.limit_in_bytes").write_text("1000\n")
    (groups / "memory" / "docker" / "memory.usage_in_bytes").write_text("10\n")
    assert (1000, 10) in list(hardware._group_limits(groups, own))  # version 1
    assert list(hardware._group_limits(tmp_path / "none", tmp_path / "none")) == []
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert hardware._cores(tmp_path / "cpu.max") == 0.5


def test_gpus_as_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "0, NVIDIA H100 80GB HBM3, 81559, 81008, 9.0\n1, Tesla T4, 15360, 15000, 7.5\n"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.name for gpu in hardware._gpus(said)] == ["NVIDIA H100 80GB HBM3", "Tesla T4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(gpu.name, gpu.free) for gpu in hardware._gpus(said)] == [("Tesla T4", 15000 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware._gpus(said) == () == hardware._gpus("NVIDIA-SMI has failed")


def test_looking_at_the_machine_loads_no_torch() -> None:
    code = "import sys; from llmops_nb.compute import hardware; print(hardware.machine()._repr_html_()[:6], 'torch' in sys.modules)"
    assert finish(start(code)).split() == ["<style", "False"]


def test_parts_are_what_arithmetic_says() -> None:
    full, inference = need(method="full"), need(method="inference")
    count = 2 * 1000 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert full["weights"] == pytest.approx(4 * count, abs=200)  # and the rotary buffer
    assert full["optimizer state"] == pytest.approx(8 * count, abs=1000)
    assert inference["KV cache"] == 2 * 2 * 2 * 63 * 64 * 4  # at the prompt: keys and values, layers, rows, tokens, width, bytes
    assert inference["optimizer state"] == inference["gradients"] == 0
    assert need({**TINY, "num_key_value_heads": 2}, method="inference")["KV cache"] == inference["KV cache"] / 2
    assert need(method="inference", dtype="bfloat16")["weights"] == pytest.approx(2 * count, abs=200)


def test_methods_and_settings_move_memory_the_way_they_should() -> None:
    total = {method: sum(need(method=method).values()) for method in hardware.METHODS}
    assert total["inference"] < total["qlora"] < total["lora"] < total["full"] == total["pretrain"]
    lora = need(method="lora")
    assert need(method="lora", rank=32)["optimizer state"] == pytest.approx(2 * lora["optimizer state"], rel=0.01)
    assert sum(need(method="lora", batch_size=8, precision="float32").values()) > 2.5 * sum(
        need(method="lora", precision="float32").values()
    )
    assert need(method="full", gradient_checkpointing=True)["activations"] < need(method="full")["activations"] / 2
    assert need(method="full", accumulate=4)["gradients"] > need(method="full")["gradients"]


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "gemma", "mistral", "opt"])
@pytest.mark.parametrize("method", ["full", "qlora", "inference"])
def test_other_architectures(kind: str, method: str) -> None:
    sizes = {"gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}}.get(
        kind,
        {
            **TINY,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    )
    found = need({**sizes, "model_type": kind, "architectures": None}, method=method)
    assert found["weights"] > 50_000 and found["activations"] > 0


@pytest.mark.slow
def test_the_fake_step_allocates_what_a_real_one_does() -> None:
    """The same meter under real tensors: forward, backward and update of the real model come to the same bytes."""
    code = """
        import torch, transformers
        from llmops_nb.compute import hardware, training
        sizes = dict(vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4)
        config = transformers.LlamaConfig(**sizes)
        settings = hardware.Settings("full", batch_size=2, max_tokens=64, precision="float32")
        fake = hardware._needed(config, settings)
        model = transformers.AutoModelForCausalLM.from_config(config)
        meter = hardware._meter()(1000)
        with meter:
            for tensor in (*model.parameters(), *model.buffers()):
                meter.mark(tensor, "weights")
            hardware._train(model, settings, meter)
        print(fake.total(), meter.highest.total())
    """
    fake, real = map(int, finish(start(code)).split())
    assert fake == pytest.approx(real, rel=0.01)


def test_what_does_not_fit_comes_with_a_way_out_that_does() -> None:
    room = hardware.plan(TINY, "full", **OPTIONS).total * 0.7
    plan = hardware.plan(TINY, "full", **OPTIONS | {"batch_size": 16}, available=room)
    assert not plan.fits and plan.verdict == "does not fit" and len(plan.changes) and (plan.changes.bytes <= room).all()
    for change in plan.changes.change:
        changed = {"method": "full", **OPTIONS, "batch_size": 16} | eval(f"dict({change})")  # noqa: S307 - our own words
        assert hardware.plan(TINY, **changed, available=room).fits, change
    assert hardware.plan(TINY, "full", **OPTIONS, available=1e12).changes.empty
    assert hardware.plan(TINY, "full", **OPTIONS, available=1000).changes.empty  # nothing helps, and that is said
    assert "does not fit" in plan._repr_html_() and "instead" in plan._repr_html_()


def test_every_way_to_name_a_model(ws, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    save_file({}, folder / "model.safetensors")  # no weights are needed
    base = registry.save("base", folder)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    save_file({}, tmp_path / "adapter" / "adapter_model.safetensors")
    tuned = registry.save("tuned", tmp_path / "adapter", parent=base)
    wanted = need(method="inference")
    for model in (f"hf:{folder}", folder, "registry:base", base, tuned, ops.hardware._config(TINY)):
        assert need(model, method="inference") == wanted
    for model, error in (
        ("registry:nobody", NotFound),
        ("openai:gpt-5-mini", InputError),
        ({"model_type": "vit"}, InputError),
        ({}, InputError),
    ):
        with pytest.raises(error):
            need(model)
    for wrong in ({"batch_size": 0}, {"max_tokens": "many"}, {"method": "magic"}, {"colour": 1}):
        with pytest.raises(InputError):
            need(**wrong)


def test_a_hostile_name_is_text() -> None:
    plan = hardware.plan(TINY, "inference", **OPTIONS)
    shown = hardware.Plan("<script>alert(1)</script>", plan.settings, plan.parts, plan.available, plan.changes)._repr_html_()
    assert "<script" not in shown
