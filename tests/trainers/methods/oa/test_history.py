"""Committed tasks in the layers of a real model, and as bases of what they write and read."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from cluster.errors import IntegrityError
from tests.support.oa_streams import SMALL, WIDTH, bert, history_of, kept_of, outputs, settings, trained
from trainers.method_config import OrthogonalityConfig
from trainers.methods.base import Artifact
from trainers.methods.oa import artifact, export
from trainers.methods.oa import history as history_module
from trainers.methods.oa.history import History, angles
from trainers.methods.oa.layers import attach, use
from trainers.methods.oa.subspace import principal_angles
from trainers.methods.targets import input_width, linear_layers, match_modules
from trainers.methods.updates import fresh


def test_off_dimensions_drop_without_a_change_in_output() -> None:
    """The live adapter, and the layer folded from its active part alone, give the same."""
    model = bert()
    history = history_of(model)
    bank = trained(history, settings(), seed=1)
    use(history.modules, bank.pairs(bank(torch.float32)))
    live = outputs(model)
    use(history.modules, {})
    kept = kept_of(bank, history)
    assert {module.rank for module in kept.modules.values()} == {4}
    assert kept.parameters == 4 * 4 * (2 * WIDTH + 1)  # modules · r_eff · (2 D + 1)
    history.extend(kept)
    assert torch.allclose(outputs(model), live, atol=1e-5)
    assert not torch.allclose(live, outputs(bert()), atol=1e-2)


def test_a_module_without_active_dimensions_is_absent_and_the_identity(tmp_path: Path) -> None:
    model = bert()
    before = outputs(model)
    history = history_of(model)
    kept = kept_of(trained(history, settings(), seed=1, off=6), history)
    assert kept.modules == {} and kept.written == {} and kept.parameters == 0
    Artifact(artifact.dump(kept)).write(tmp_path)
    history.extend(artifact.parse(*((tmp_path / f).read_bytes() for f in ("adapter.safetensors", "bases.safetensors"))))
    assert torch.equal(outputs(model), before)


BUILD = {
    "bert": (bert, "output.dense"),
    "gpt2": (lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=100)).eval(), "c_attn"),
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)).eval(), "o_proj"),
    "t5": (
        lambda: T5EncoderModel(T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, vocab_size=100)).eval(),
        "wo",
    ),
}


@pytest.mark.parametrize("family", BUILD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_and_concatenated_history_give_equal_outputs(family: str, dtype: torch.dtype) -> None:
    """By norm: the difference is at most 1e-5 of the outputs in float32, and 2^-6 in bfloat16, since the two round
    weights and outputs at other places, by 2^-9 each. A norm over hundreds of values hardly depends on the order in
    which a CPU adds; the largest difference does, and stood at half of its bound in bfloat16."""
    results = []
    for kind in ("folded", "concatenated"):
        build, target = BUILD[family]
        torch.manual_seed(0)
        model = build().to(dtype)  # type: ignore[no-untyped-call]
        modules = match_modules(model, [target])
        for module in modules.values():
            module.weight.data *= 8  # so that what the adapters change stands far above rounding
        attach(modules)
        history = History(modules, settings(history=kind), dtype)
        for seed in (1, 2, 3):
            history.extend(kept_of(trained(history, settings(), seed), history))
        with torch.no_grad():
            results.append(model(input_ids=torch.arange(24).reshape(2, 12))[0].float())
        history.restore()
        with torch.no_grad():
            results.append(model(input_ids=torch.arange(24).reshape(2, 12))[0].float())
    folded, plain, concatenated, plain_again = results
    scale = float(folded.abs().max())
    assert torch.equal(plain, plain_again)
    bound = 1e-5 if dtype == torch.float32 else 2**-6
    assert (folded - concatenated).norm() <= bound * folded.norm()
    assert (folded - plain).abs().max() > 0.05 * scale


def test_folding_a_stream_equals_composing_it_and_can_be_undone() -> None:
    """h_t = (I + U_t) … (I + U_1) (W0 x + b), computed here in float64 without the library's fold."""
    model = bert()
    original = copy.deepcopy(model.state_dict())
    history = history_of(model)
    for seed in (1, 2, 3):
        history.extend(kept_of(trained(history, settings(), seed), history))
    name, linear = next(iter(history.modules.items()))
    x = torch.randn(5, linear.in_features, generator=torch.Generator().manual_seed(9))  # type: ignore[call-overload]
    h = x.double() @ original[f"{name}.weight"].double().T + original[f"{name}.bias"].double()
    for task in history.tasks:
        part = task.modules[name]
        h = h + ((h @ part.w1_RD.double().T) * part.gamma_R.double()) @ part.w2_DR.double().T
    assert torch.allclose(linear(x).double(), h, rtol=1e-5, atol=1e-5)
    history.restore()
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    assert history.tasks == []


def test_saved_adapter_is_read_back_exactly(tmp_path: Path) -> None:
    config = settings(orthogonality=OrthogonalityConfig(side="both").model_dump())
    history = history_of(bert(), config)
    kept = kept_of(trained(history, config, seed=1), history, moments=True)
    Artifact(artifact.dump(kept)).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "bases.safetensors"]
    again = artifact.parse(*((tmp_path / f).read_bytes() for f in ("adapter.safetensors", "bases.safetensors")))
    for name, module in kept.modules.items():
        assert torch.equal(again.modules[name].w1_RD, module.w1_RD)
        assert torch.equal(again.modules[name].w2_DR, module.w2_DR)
        assert torch.equal(again.modules[name].gamma_R, module.gamma_R)
        assert torch.equal(again.written[name].columns_DH, kept.written[name].columns_DH)
        assert torch.equal(again.read[name].columns_DH, kept.read[name].columns_DH)
    assert all(name in again.read for name in history.modules)


@pytest.mark.parametrize("side", ["output", "input", "both"])
def test_projection_keeps_the_next_task_out_of_both_subspaces(side: str) -> None:
    config = settings(orthogonality={"mode": "projection", "side": side, "energy": 0.8})
    history = history_of(bert(), config)
    history.extend(kept_of(trained(history, config, seed=1), history, moments=side != "output", energy=0.8))
    following = kept_of(trained(history, config, seed=2), history)
    for name, part in following.modules.items():
        if side != "input":
            assert torch.allclose(history.written[name].columns_DH.T @ part.written_DR, torch.zeros(()), atol=1e-5)
        if side != "output":
            assert history.read[name].columns_DH.shape[1] > 0
            assert torch.allclose(part.w1_RD @ history.read[name].columns_DH, torch.zeros(()), atol=1e-5)


def test_a_history_that_does_not_fit_is_refused() -> None:
    history = history_of(bert())
    kept = kept_of(trained(history, settings(), seed=1), history)
    other = history_of(bert(), targets=("encoder.layer.0.output.dense",))
    with pytest.raises(IntegrityError, match=r"task 1 adapts '.*', which is no target layer"):
        other.extend(kept)
    name, part = next(iter(kept.modules.items()))
    for damaged in (
        dataclasses.replace(part, w1_RD=part.w1_RD[:, 1:]),
        dataclasses.replace(part, w2_DR=part.w2_DR.T),
        dataclasses.replace(part, w2_DR=part.w2_DR * torch.nan),
    ):
        with pytest.raises(IntegrityError, match=rf"task 1, layer '{name}'.*should be"):
            history.extend(dataclasses.replace(kept, modules={name: damaged}))
    assert history.tasks == []


def test_saturation_drops_the_weakest_directions_and_says_how_much() -> None:
    config = settings(orthogonality={"saturation": "drop", "max_occupancy": 0.25})  # 8 of 32 directions
    history, kept = history_of(bert(), config), list[artifact.TaskAdapter]()
    for seed in (1, 2, 3):
        kept.append(kept_of(trained(history, config, seed), history))
        history.extend(kept[-1])
    for name, taken in history.occupancy().items():
        spectra = torch.cat([task.written[name].spectrum_H for task in kept])
        assert taken["written"] == 0.25 and taken["free"] == 24
        assert taken["dropped"] == pytest.approx(  # the last task met what the second left, not the first's weakest
            1 - float(history.written[name].spectrum_H.square().sum() / spectra.square().sum()), abs=1e-6
        )
        assert 0 < taken["dropped"] < 0.5
        basis = history.written[name].columns_DH
        assert torch.allclose(basis.T @ basis, torch.eye(8), atol=1e-5)


def test_angles_between_tasks_show_protection() -> None:
    """Under projection later tasks are at right angles to all earlier ones; without it they are not."""
    for mode, right in (("projection", True), ("penalty", False)):
        config = settings(orthogonality={"mode": mode})
        history = history_of(bert(), config)
        for seed in (1, 2, 3):
            history.extend(kept_of(trained(history, config, seed), history))
        found = angles(history.tasks[:-1], history.tasks[-1])
        assert len(found) == 2
        assert all((entry["smallest"] > 89.9) == right and entry["mean"] >= entry["smallest"] for entry in found)


def test_angles_of_tasks_of_unequal_ranks_are_each_task_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are compared together, by rank and so many at once; one has no layer in common."""
    monkeypatch.setattr(history_module, "AT_ONCE", 2)
    history = history_of(bert(), settings())
    tasks = [kept_of(trained(history, settings(), seed), history) for seed in range(6)]
    name, part = next(iter(tasks[1].modules.items()))
    less = dataclasses.replace(part, w1_RD=part.w1_RD[:1], w2_DR=part.w2_DR[:, :1], gamma_R=part.gamma_R[:1])
    tasks[1] = dataclasses.replace(tasks[1], modules={name: less})
    tasks[2] = dataclasses.replace(tasks[2], modules={})
    expected = [
        torch.cat([*(principal_angles(tasks[-1].writes_DR(n), task.writes_DR(n)) for n in task.modules)])
        if task.modules
        else torch.tensor([90.0])
        for task in tasks[:-1]
    ]
    found = angles(tasks[:-1], tasks[-1])
    assert [each["smallest"] for each in found] == pytest.approx([float(each.min()) for each in expected])
    assert [each["mean"] for each in found] == pytest.approx([float(each.mean()) for each in expected])


@pytest.mark.parametrize("saturation", ["stop", "drop"])
@pytest.mark.parametrize("kind", ["folded", "concatenated"])
def test_a_stream_taken_over_at_once_is_that_of_task_by_task(kind: str, saturation: str) -> None:
    """To the bit: a worker that starts late must not differ from one that trained every task."""
    config = settings(history=kind, orthogonality={"saturation": saturation, "max_occupancy": 0.25})
    one, other = bert(), bert()
    history, late, kept = history_of(one, config), history_of(other, config), list[artifact.TaskAdapter]()
    for seed in (1, 2, 3):
        kept.append(kept_of(trained(history, config, seed), history))
        history.extend(kept[-1])
    late.extend(*kept)
    assert all(task.written == task.read == {} for task in history.tasks)  # which are held once, in the bases
    for side in ("written", "read"):
        for name, columns in history.columns(side).items():
            assert torch.equal(columns, late.columns(side)[name])
    assert [*map(history.dropped, history.modules)] == [*map(late.dropped, history.modules)]
    x = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(one(input_ids=x)[0], other(input_ids=x)[0])


def started(history: History) -> artifact.TaskAdapter:
    """A LoRA from elsewhere on all layers of a history, read back from its files."""
    stream = fresh(history.modules, 3, 0.5, 0)
    draw = torch.Generator().manual_seed(4)
    for lora in stream.values():
        lora.b_DR.normal_(generator=draw)
    files = artifact.dump_start(stream)
    return artifact.parse(files[artifact.ADAPTER_FILE], files[artifact.BASES_FILE])


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_stream_may_begin_at_w0_and_a_lora(kind: str) -> None:
    """(I + U)((W0 + s B A) x + b) in the layers, as one LoRA on the base and in its weights; and back bit for bit."""
    model = (
        bert() if kind == "linear" else GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, vocab_size=40))
    )
    targets = ("output.dense",) if kind == "linear" else ("mlp.c_proj",)
    original, base = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    history = history_of(model, targets=targets)
    history.extend(first := started(history))
    history.extend(second := kept_of(trained(history, settings(), seed=1), history))
    loras, layers = export.loras(base, [first, second]), linear_layers(base)
    export.merge(merged := copy.deepcopy(base), [first, second], "nearest")
    for name, linear in history.modules.items():
        x = torch.randn(5, input_width(linear), generator=torch.Generator().manual_seed(9))
        lora, part = first.start[name], second.modules[name]
        h = layers[name](x) + lora.scaling * x @ lora.a_RK.T @ lora.b_DR.T
        expected = h + ((h @ part.w1_RD.T) * part.gamma_R) @ part.w2_DR.T
        torch.testing.assert_close(linear(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged.get_submodule(name)(x), expected, rtol=1e-4, atol=1e-4)
        made = loras[name]
        assert made.rank == 3 + part.rank and made.shift_D is not None
        update = x @ made.a_RK.T @ made.b_DR.T + made.shift_D
        torch.testing.assert_close(layers[name](x) + update, expected, rtol=1e-4, atol=1e-4)
    assert angles([first], second)[0]["mean"] < 90
    history.restore()
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())


def test_where_a_lora_cannot_stand_in_a_stream() -> None:
    history = history_of(bert())
    start = started(history)
    history.extend(kept_of(trained(history, settings(), seed=1), history))
    with pytest.raises(IntegrityError, match="only the first task of a stream"):
        history.extend(start)
    with pytest.raises(IntegrityError, match="only the first task of a stream"):
        history_of(bert(), settings(history="concatenated")).extend(start)
    other = history_of(bert(), targets=("encoder.layer.0.output.dense",))
    with pytest.raises(IntegrityError, match=r"no target layer of this run; name it in adapter\.target_modules"):
        other.extend(start)
    name, lora = next(iter(start.start.items()))
    for wrong in (
        dataclasses.replace(lora, a_RK=lora.a_RK[:, 1:]),
        dataclasses.replace(lora, b_DR=lora.b_DR * torch.nan),
    ):
        with pytest.raises(IntegrityError, match="should be"):
            history_of(bert()).extend(dataclasses.replace(start, start={name: wrong}))
