"""What every method must do, whatever it learns: see `trainers.methods.base`. A new one joins METHODS and must pass."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.errors import ConfigError, IntegrityError
from tests.support.method_stream import TRAIN, MethodStream
from tests.support.shift_method import ShiftConfig, ShiftMethod
from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig
from trainers.lowrank_config import AdaloraConfig, EllaConfig, IncrementalLoraConfig, InfloraConfig, OloraConfig
from trainers.method_config import AdapterConfig, EwcConfig, FullConfig, LoraConfig, MethodConfig, OsftConfig
from trainers.methods.base import Artifact, TaskContext
from trainers.methods.beside import put_beside, view_of
from trainers.methods.export import Provenance, write_merged, write_peft
from trainers.methods.registry import check_method, method_for
from trainers.models.loading import load_backbone, weights_digest
from trainers.training.stage import Leaving

TARGETS = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "o_proj"]}
OA = {"max_rank": 3, "threshold": 0.3}
LORA = {"method": "lora", "rank": 3, "alpha": 6.0}
METHODS: dict[str, Callable[..., MethodConfig]] = {
    "oa": lambda **targets: AdapterConfig.model_validate({**OA, **targets}),
    "oa-both-concatenated": lambda **targets: AdapterConfig.model_validate(
        {
            **OA,
            **targets,
            "history": "concatenated",
            "orthogonality": {"side": "both", "energy": 0.5},
            "max_parameters": 2000,
        }
    ),
    "oa-functional": lambda **targets: AdapterConfig.model_validate(
        {**OA, **targets, "orthogonality": {"side": "none"}, "functional": {"weight": 5.0, "directions": 4}}
    ),
    "oa-task-frozen": lambda **targets: AdapterConfig.model_validate(
        {
            **OA,
            **targets,
            "initial": "task",
            "train_down": False,
            "orthogonality": {"side": "both", "energy": 0.5},
            "functional": {"weight": 1.0},
        }
    ),
    "lora": lambda **targets: LoraConfig.model_validate({**LORA, **targets, "dropout": 0.1}),
    "lora-per-task": lambda **targets: LoraConfig.model_validate({**LORA, **targets, "mode": "per_task"}),
    "incremental-lora": lambda **targets: IncrementalLoraConfig.model_validate(
        {**LORA, **targets, "method": "incremental_lora"}
    ),
    "olora": lambda **targets: OloraConfig.model_validate({**LORA, **targets, "method": "olora", "norm_weight": 0.01}),
    "inflora": lambda **targets: InfloraConfig.model_validate({**LORA, **targets, "method": "inflora", "energy": 0.5}),
    "ella": lambda **targets: EllaConfig.model_validate({**LORA, **targets, "method": "ella"}),
    "adalora": lambda **targets: AdaloraConfig.model_validate(
        {**LORA, **targets, "method": "adalora", "initial_rank": 5}
    ),
    "adalora-per-task": lambda **targets: AdaloraConfig.model_validate(
        {**LORA, **targets, "method": "adalora", "initial_rank": 5, "mode": "per_task"}
    ),
    "full": lambda **targets: FullConfig.model_validate({"method": "full", **targets}),
    "ewc": lambda **targets: EwcConfig.model_validate({"method": "ewc", **targets}),
    "osft": lambda **targets: OsftConfig.model_validate({"method": "osft", **targets}),
    "shift": lambda **targets: ShiftConfig.model_validate({"decay": 0.1, **targets}),
}
LIKE_OTHERS = {"incremental-lora", "ella", "adalora-per-task", "full"}  # but for what tests of their own try
LINEAR = ("osft",)  # which adapt nn.Linear alone, and GPT-2 has Conv1D
CASES = [
    *(
        pytest.param((m, "gpt2"), marks=[pytest.mark.slow] if m in LIKE_OTHERS else [])
        for m in METHODS
        if m not in LINEAR
    ),
    *((method, "llama") for method in ("oa", "lora", *LINEAR)),
]
OF_WEIGHTS = (FullConfig, EwcConfig, OsftConfig)  # which change the base's own weights: they begin where these are
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
New = Callable[[], MethodStream]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Iterator[Path]:
    """Folders of tiny models; and one process that is a group of its own, as DeepSpeed asks for."""
    folder = tmp_path_factory.mktemp("bases")
    for family in TARGETS:
        save_tiny(family, folder / family)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, bases: Path, tmp_path_factory: pytest.TempPathFactory) -> New:
    """Makes streams of one method over one model, each on a model of its own."""
    name, family = request.param
    config = METHODS[name](target_modules=TARGETS[family])

    def make(model: Any) -> Any:
        if isinstance(config, ShiftConfig):
            return ShiftMethod(model, config)
        return method_for(model, config, torch.float32)

    return lambda: MethodStream(bases / family, config, make, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def learned(case: New) -> MethodStream:
    """Both tasks."""
    stream = case()
    for index in range(2):
        stream.learn(index)
    return stream


def context(stream: MethodStream, seed: int = 3) -> TaskContext:
    device, reader = torch.device("cpu"), stream.training(0)
    return TaskContext(name="t", seed=seed, steps=6, train=TRAIN, device=device, rank=0, reader=reader)


def base_values(stream: MethodStream) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stream.backbone.model.state_dict().items()}


def test_it_learns(case: New, learned: MethodStream) -> None:
    assert learned.outputs(0)[:12].mean() < case().outputs()[:12].mean() - 0.005
    full = learned.method.capacity()
    assert {*full} in (set(), {*learned.method.modules})
    assert all(each.keys() == {"written", "read", "free", "dropped"} for each in full.values())


@pytest.mark.slow
@pytest.mark.parametrize("task", [0, 1])
def test_beside_a_shared_base_it_answers_alike(case: New, learned: MethodStream, task: int) -> None:
    """The view answers as the stream; the base that it is of answers as before, with every bit as it was."""
    alone, view = case(), case()
    before = base_values(alone)
    view.backbone = replace(alone.backbone, model=view_of(alone.backbone.model))
    view.method = put_beside(view.make(view.backbone.model), view.config, learned.committed)  # type: ignore[assignment]
    torch.testing.assert_close(view.outputs(task), learned.outputs(task), **TOLERANCE)
    assert not torch.allclose(view.outputs(task), alone.outputs(task), atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in alone.backbone.model.state_dict().items())


def test_what_is_committed_gives_the_outputs_again(case: New, learned: MethodStream) -> None:
    """To the bit, at once or task by task, from the bytes of the files alone."""
    files = [Artifact(dict(each.files)) for each in learned.committed]
    at_once, one_by_one = case(), case()
    at_once.take(files)
    for each in files:
        one_by_one.take([each])
    for task in (0, 1, None):
        expected = learned.outputs(task)
        assert torch.equal(at_once.outputs(task), expected) and torch.equal(one_by_one.outputs(task), expected)
    assert {*learned.committed[0].files} == {*learned.config.files} or isinstance(learned.config, ShiftConfig)


@pytest.mark.slow
def test_reset_puts_the_base_back(case: New, learned: MethodStream) -> None:
    """Bit for bit, and under the names it had; the method can then learn again, and gives the same files."""
    stream = case()
    before, names = base_values(stream), [name for name, _ in stream.backbone.model.named_modules()]
    outputs = stream.outputs()
    first = stream.learn(0)
    stream.method.reset(stream.config)
    after = stream.backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert names == [name for name, _ in stream.backbone.model.named_modules()]
    assert weights_digest(stream.backbone.model) == stream.backbone.digest
    assert torch.equal(stream.outputs(), outputs)
    again = stream.learn(0)
    assert again.files == first.files == learned.committed[0].files


def test_groups_cover_what_is_trained_and_nothing_of_the_base(case: New) -> None:
    stream = case()
    base = {id(parameter) for parameter in stream.backbone.model.parameters()}
    attached = stream.method.begin(context(stream))
    grouped = [id(parameter) for group in attached.groups() for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in attached.module.parameters())
    assert len(grouped) == len({*grouped}) and not base & {*grouped}
    assert all(parameter.requires_grad for parameter in attached.module.parameters())
    frozen = [p for p in stream.backbone.model.parameters() if id(p) in base]
    assert len(frozen) == len(base) and not any(parameter.requires_grad for parameter in frozen)
    cost = stream.method.footprint(2)
    assert sum(parameter.numel() for parameter in attached.module.parameters()) == cost.trained
    attached.detach()


@pytest.mark.slow
def test_detach_leaves_the_model_as_it_answered(case: New, learned: MethodStream) -> None:
    stream = case()
    for committed in (0, 1, 1):  # on the base, after one task, after two
        before = stream.outputs()
        attached = stream.method.begin(context(stream))
        with torch.no_grad():
            for parameter in attached.module.parameters():
                parameter.add_(0.1)
        attached.penalties()
        assert not torch.equal(stream.outputs(), before)
        attached.detach()
        assert torch.equal(stream.outputs(), before)
        stream.take([Artifact(learned.committed[committed].files)])


@pytest.mark.slow
def test_initial_values_are_those_of_the_seed(case: New) -> None:
    one, other = case(), case()
    torch.manual_seed(1)
    first = one.method.begin(context(one))
    torch.manual_seed(2)
    second = other.method.begin(context(other))
    pairs = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    second.detach()
    third = other.method.begin(context(other, seed=4))
    different = [
        not torch.equal(a, b) for a, b in zip(first.module.parameters(), third.module.parameters(), strict=True)
    ]
    alike = (ShiftConfig, InfloraConfig, *OF_WEIGHTS)  # whose parameters begin at 0, or at the base's
    assert any(different) or isinstance(one.config, alike)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_task_that_was_left_ends_where_an_undisturbed_one_does(case: New, learned: MethodStream, index: int) -> None:
    """Left after 4 of 6 updates, taken up by another process: the same files to the bit, and the same log."""
    before, after = case(), case()
    after.store = before.store
    for stream in (before, after):
        stream.take(learned.committed[:index])
    answers = before.outputs()
    with pytest.raises(Leaving):
        before.training(index, leave_at=4).run()
    assert torch.equal(before.outputs(), answers)
    resumed = after.training(index).run()
    assert resumed.artifact.files == learned.committed[index].files
    assert resumed.artifact.summary == learned.committed[index].summary
    assert [row["step"] for row in resumed.log.rows] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_task_whose_last_update_was_kept_needs_no_other(case: New, learned: MethodStream) -> None:
    """As where a driver dies between the last checkpoint and the commit."""
    before, after = case(), case()
    after.store = before.store
    before.learn(0)
    again = after.training(0).run()
    assert again.artifact == learned.committed[0]
    assert len(again.log.rows) == 6


def test_a_damaged_file_is_refused(case: New, learned: MethodStream) -> None:
    stream = case()
    for name, data in learned.committed[0].files.items():
        with pytest.raises(IntegrityError):
            stream.method.extend([Artifact({**learned.committed[0].files, name: data[: len(data) // 2]})])


@pytest.mark.slow
def test_peft_gives_the_outputs(case: New, learned: MethodStream, tmp_path: Path) -> None:
    """Of the newest task, from the exported folder, over a base that PEFT has loaded itself."""
    import peft

    if isinstance(learned.config, OF_WEIGHTS):
        with pytest.raises(ConfigError, match="is no LoRA; export it with --format merged"):
            learned.method.as_lora(learned.committed)
        return
    reading, plain = case(), load_backbone_of(learned)
    tasks = learned.committed[-1:] if learned.config.needs_task else learned.committed
    origin = Provenance("t/x@v2", ("a", "b"), "CAUSAL_LM", str(learned.base), "d" * 64)
    write_peft(plain, learned.make(plain).as_lora(tasks), tmp_path / "made", origin)
    peft.PeftModel.from_pretrained(reading.backbone.model, tmp_path / "made")
    torch.testing.assert_close(reading.outputs(), learned.outputs(1), **TOLERANCE)


@pytest.mark.slow
def test_merged_weights_give_the_outputs(case: New, learned: MethodStream, tmp_path: Path) -> None:
    tasks = learned.committed[-1:] if learned.config.needs_task else learned.committed
    plain = load_backbone_of(learned)
    ranks = learned.make(plain).merge(tasks)
    origin = Provenance("t/x@v2", ("a", "b"), "CAUSAL_LM", str(learned.base), "d" * 64)
    write_merged(plain, ranks, tmp_path / "made", origin)
    merged = MethodStream(tmp_path / "made", learned.config, learned.make, tmp_path)
    torch.testing.assert_close(merged.outputs(), learned.outputs(1), **TOLERANCE)


def load_backbone_of(stream: MethodStream) -> Any:
    """The unadapted model."""
    return load_backbone(ModelConfig(name=str(stream.base), task_type="CAUSAL_LM", max_length=16)).model


@pytest.mark.parametrize("method", [method for method in METHODS if method != "shift"])  # the registry has no shift
def test_a_pattern_that_matches_no_layer_is_refused(method: str, bases: Path) -> None:
    """Of every method that has patterns, whichever keys they are under."""
    family = "llama" if method in LINEAR else "gpt2"
    targets, layer = TARGETS[family][:1], {"gpt2": "0.attn.c_attn", "llama": "0.self_attn.q_proj"}[family]
    model = ModelConfig(name=str(bases / family), task_type="CAUSAL_LM")
    config = METHODS[method](target_modules=targets)
    assert check_method(model, config)[1].modules
    for key in config.patterns:
        check_method(model, METHODS[method](target_modules=targets, **{key: {layer: 1}}))
        misspelt = targets[0].replace("_", "__")
        with pytest.raises(
            ConfigError,
            match=rf"adapter\.{key}: '{misspelt}' matches no adapted layer; did you mean .*{targets[0]}'",
        ):
            check_method(model, METHODS[method](target_modules=targets, **{key: {misspelt: 1}}))


def test_which_methods_have_patterns() -> None:
    """A key of any method's section that ends in `pattern` is one that is checked."""
    for made in METHODS.values():
        config = made(target_modules=["c_attn"])
        assert {key for key in type(config).model_fields if key.endswith("pattern")} == set(config.patterns)
