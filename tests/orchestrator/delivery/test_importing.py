"""An adapter from elsewhere answers as PEFT has it answer, is exported as it came, and oa goes on from W0 + BA."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import ConfigError, DataError
from cluster.storage import open_store
from orchestrator.config.run import parse_config
from orchestrator.delivery.export import export, load_base
from orchestrator.delivery.importing import Told as Wanted
from orchestrator.delivery.importing import import_lora
from orchestrator.delivery.load import load
from orchestrator.delivery.predictor import Predictor
from orchestrator.registry.aliases import promote
from orchestrator.registry.references import resolve
from orchestrator.run.controller import Controller
from orchestrator.run.driver_process import this_process
from orchestrator.run.fork import plan_fork
from orchestrator.track.events import Start
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from tests.support.command_line import here
from tests.support.fake_workers import Told
from tests.support.peft_folders import save_peft
from tests.support.tiny_models import save_encoder, save_tiny
from tests.support.untrained_runs import WORDS, Untrained, classification, generative, process_group
from trainers.methods.oa.artifact import parse

PROMPTS = ["what is it is ", "test number 3 more is ", "a word and another is "]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, its PEFT LoRA `lora` with ranks of its own, and team/qa in `store`."""
    folder = tmp_path_factory.mktemp("imported")
    how = {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 6}}
    save_peft(save_tiny("llama", folder / "base"), folder / "lora", **how)
    import_lora(folder / "lora", "team", "qa", str(folder / "store"), wanted())
    return folder


def wanted(model: dict[str, Any] | None = None, **task: Any) -> Wanted:
    task = {"name": "qa", "format": "prompt_completion", "decoding": {"max_new_tokens": 8}, **task}
    return Wanted(model={"max_length": 64, **(model or {})}, task=task)


def peft_of(place: Path, folder: str = "lora") -> Any:
    import transformers
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    return PeftModel.from_pretrained(base, place / folder).eval()


def said_by_peft(place: Path, folder: str = "lora") -> list[str]:
    """PEFT's and transformers' own greedy answers."""
    import transformers

    model, words = peft_of(place, folder), transformers.AutoTokenizer.from_pretrained(place / "base")
    answers = []
    for prompt in PROMPTS:
        ids = words(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        made = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        answers.append(words.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def test_it_answers_as_peft_has_it_answer(place: Path) -> None:
    predictor = Predictor("team/qa@v1", store=str(place / "store"))
    assert predictor.tasks == ("qa",)
    answers = [each.answer for each in predictor.generate(PROMPTS)]
    assert answers == said_by_peft(place) and len({*answers}) > 1


def test_without_peft_the_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.method_config.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs peft, which is not installed; `pip install 'orthoplex\[methods\]'`"):
        Predictor("team/qa@v1", store=str(place / "store"))


def test_what_the_store_holds(place: Path) -> None:
    """The log says what it is from; the manifest has what one of a run has."""
    version = resolve(open_store(str(place / "store")), "team/qa@v1")
    assert [entry.op for entry in version.entries] == ["import", "commit"] and version.state.status == "published"
    assert version.state.imported and version.state.imported.origin["folder"] == "lora"
    manifest = version.track.manifest_of(version.commit)
    assert manifest["base_digest"] == version.commit.base_digest and manifest["adapter"]["rank"] == 4
    assert manifest["imported"]["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert manifest["config"] == version.state.completed().model_dump(mode="json")
    promote(version.track, 1, "production", expect=0, why="")
    assert Predictor("team/qa@production", store=str(place / "store")).reference == "team/qa@v1"


def test_export_import_predict(place: Path, tmp_path: Path) -> None:
    """The same answers once more around; and from a run of this store's own."""
    store = str(place / "store")
    export(resolve(open_store(store), "team/qa@v1"), "peft", place / "again")
    import_lora(place / "again", "team", "again", store, wanted({"name": str(place / "base")}))
    answers = [each.answer for each in Predictor("team/again@v1", store=store).generate(PROMPTS)]
    assert answers == said_by_peft(place) == said_by_peft(place, "again")


def gone_on(place: Path, **sections: Any) -> tuple[RunState, Any]:
    """A run that begins with a copy of team/qa, and learns another task."""
    qa = generative(place, "qa", "prompt_completion", decoding={"max_new_tokens": 8})
    tasks = [qa, generative(place, "more", "prompt_completion")]
    content = {
        "name": "onward", "team": "team", "store": str(place / "store"),
        "model": {"name": str(place / "base"), "task_type": "CAUSAL_LM", "max_length": 64},
        "adapter": {
            "target_modules": ["o_proj", "down_proj", "up_proj"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0,
            "orthogonality": {"mode": "projection"}, "functional": {"weight": 0.0},
        },
        "train": {"eval_batch_size": 4}, "deepspeed": {"zero_stage": 0}, "cluster": {"num_workers": 1},
        "tasks": tasks, **sections,
    }  # fmt: skip
    config = parse_config(content, "test")
    fork = plan_fork(Track(open_store(str(place / "store")), "team", "qa"), None)
    return config, fork


def run(config: Any, fork: Any, monkeypatch: pytest.MonkeyPatch) -> RunState:
    monkeypatch.setattr("ray.put", lambda value: value)
    with process_group():
        return Controller(config, Told(), fork, workers=Untrained(config)).run()


def test_oa_goes_on_from_w0_and_ba(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` gives (I + U) (W0 + s B A), PEFT's merged weights with the second task's update; an export, the same
    model; the second task writes outside of what the imported one does."""
    state = run(*gone_on(place), monkeypatch)
    assert [commit.task for commit in state.commits] == ["qa", "more"]
    assert state.commits[0].forked_from == "team/qa@v1" and state.commits[1].test[0].rows == 9
    store = str(place / "store")
    version = resolve(open_store(store), "team/onward@v2")
    files = [version.track.committed(commit, "adapter.safetensors", "bases.safetensors") for commit in version.stream]
    first, second = (parse(*each) for each in files)
    expected = peft_of(place).merge_and_unload()
    with torch.no_grad():
        for name, part in second.modules.items():
            layer = expected.get_submodule(name)
            update = part.w2_DR * part.gamma_R @ part.w1_RD
            layer.weight.copy_((torch.eye(len(update)) + update) @ layer.weight)
            if name in first.written:
                q = first.written[name].columns_DH
                assert float((q.T @ part.w2_DR).abs().max()) < 1e-5 < float(part.w2_DR.abs().max())
    assert len(second.modules) == 9 and len(first.start) == 6
    loaded = load("team/onward@v2", store=store)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=1e-5, atol=1e-6)
    export(version, "peft", place / "onward")
    ids = torch.arange(200, 240).view(2, 20)
    with torch.no_grad():
        wanted_logits = expected(ids).logits
        torch.testing.assert_close(loaded(ids).logits, wanted_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(peft_of(place, "onward")(ids).logits, wanted_logits, rtol=1e-4, atol=1e-4)
        shared = load_base(state.completed().model, version)
        beside = Predictor(version, base=shared).base.model(ids).logits
        torch.testing.assert_close(beside, wanted_logits, rtol=1e-4, atol=1e-4)
    imported = Predictor(resolve(open_store(store), "team/qa@v1"), base=shared)
    assert [each.answer for each in imported.generate(PROMPTS)] == said_by_peft(place)
    before = Predictor("team/onward@v1", store=store)
    assert [each.answer for each in before.generate(PROMPTS, task="qa")] == said_by_peft(place)


def test_lora_goes_on_from_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = {"method": "lora", "target_modules": ["o_proj", "down_proj"], "rank": 4}
    config, fork = gone_on(place, adapter=adapter, name="trained-on")
    state = run(config, fork, monkeypatch)
    assert [commit.task for commit in state.commits] == ["qa", "more"]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": ["o_proj"]}, "the run does not adapt 'model.layers.0.mlp.down_proj'"),
        ({"history": "concatenated"}, "set adapter.history to folded"),
        ({"orthogonality": {"weight": 0.0}, "functional": {"weight": 10.0}}, "was imported, and of what it"),
        ({"method": "olora"}, "set adapter.method to lora or oa"),
        ({"method": "lora", "target_modules": ["o_proj", "down_proj"], "rank": 8}, "adapter.rank: 8, but .* has 4"),
        ({"method": "lora", "target_modules": ["o_proj", "down_proj", "up_proj"], "rank": 4}, "the run adapts '.*up_"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_go_on_from_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, adapter: dict[str, Any], message: str
) -> None:
    given = {"target_modules": ["o_proj", "down_proj"], "functional": {"weight": 0.0}} | adapter
    if "method" in adapter:
        given.pop("functional")
    config, fork = gone_on(place, adapter=given, name="refused")
    with pytest.raises(ConfigError, match=message):
        run(config, fork, monkeypatch)


def test_the_imported_track_itself_is_no_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = gone_on(place, name="qa")
    with pytest.raises(ConfigError, match=r"v1 was imported(.|\n)*with --fork NAME"):
        run(config, None, monkeypatch)
    unsaid = [{"name": "qa", "source": "imported", "format": "prompt_completion"}]
    config, fork = gone_on(place, name="no-rows", tasks=[*unsaid, generative(place, "more", "prompt_completion")])
    with pytest.raises(DataError, match="task qa: was imported without rows"):
        run(config, fork, monkeypatch)


def test_a_track_that_a_driver_holds_is_not_imported_into(place: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    track = Track(open_store(store), "team", "driven")
    track.append(Start(driver=this_process(), lease_s=60), after=None)
    with pytest.raises(ConfigError, match="--as team/driven: exists already"):
        import_lora(place / "lora", "team", "driven", store, wanted())
    assert [entry.op for entry in track.entries()] == ["start"]


def test_labels_of_an_encoder_and_of_a_decoder(place: Path, tmp_path: Path) -> None:
    base = save_encoder(tmp_path / "base")
    how = {"target_modules": ["query", "output.dense"], "task_type": "FEATURE_EXTRACTION"}
    save_peft(base, tmp_path / "lora", "AutoModel", **how)
    store = str(tmp_path / "store")
    told = Wanted(model={}, task={"name": "a", "labels": [*WORDS[0]]})
    assert import_lora(tmp_path / "lora", "t", "labels", store, told).layers == 6
    found = Predictor("t/labels@v1", store=store).classify(["test 1 red", "cold"])
    assert {*found[0].scores} == {*WORDS[0]}
    told = Wanted(model={"prompt": "text : {text} is :", "max_length": 64}, task={"name": "a", "labels": [*WORDS[0]]})
    import_lora(place / "lora", "t", "decoder", store, told)
    assert Predictor("t/decoder@v1", store=store).classify(["red"])[0].label in WORDS[0]


def test_what_is_not_said_is_asked_for(place: Path, tmp_path: Path) -> None:
    """All of it at once; and a name that is taken."""
    config = json.loads((place / "lora/adapter_config.json").read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "adapter_model.safetensors").write_bytes((place / "lora/adapter_model.safetensors").read_bytes())
    (bare / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": None, "task_type": None})
    )
    store = str(place / "store")
    with pytest.raises(ConfigError) as refused:
        import_lora(bare, "team", "new", store, Wanted(model={}, task={}))
    for part in ("--model", "--task-type", "--task NAME", "--labels", "--format"):
        assert part in str(refused.value)
    with pytest.raises(ConfigError, match="--prompt"):
        import_lora(place / "lora", "team", "new", store, Wanted(model={}, task={"name": "a", "labels": ["x", "y"]}))
    with pytest.raises(ConfigError, match="--as team/qa: exists already"):
        import_lora(place / "lora", "team", "qa", store, wanted())
    with pytest.raises(ConfigError, match=r"so adapter_config\.json names it.*--model"):
        (bare / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/no/where"}))
        import_lora(bare, "team", "new", store, wanted())
    assert not Track(open_store(store), "team", "new").entries()


def test_an_import_that_was_cut_is_gone_on_with(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.delivery.importing.upload_contents", lambda *_: pytest.fail("cut"))
        with pytest.raises(pytest.fail.Exception):
            import_lora(place / "lora", "team", "cut", store, wanted())
    with pytest.raises(ConfigError, match="another import was begun"):
        import_lora(place / "lora", "team", "cut", store, wanted(name="other"))
    assert import_lora(place / "lora", "team", "cut", store, wanted()).reference == "team/cut@v1"
    assert [entry.op for entry in Track(open_store(store), "team", "cut").entries()] == ["import", "commit"]


def test_the_command(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told = tmp_path / "told.yaml"
    told.write_text("model: {max_length: 48}\ntask: {name: turns, format: messages, chat_template: chatml}\n")
    words = ("adapters", "import", place / "lora", "--store", tmp_path / "store", "--config", told)
    code, out, err = here(monkeypatch, capsys, *words, "--as", "team/turns", "--task", "talk")
    assert code == 0 and "as team/turns@v1, task talk: 6 layers, rank 4" in out
    assert "note: answers have at most 64 tokens" in out and "--fork NAME" in out and err == ""
    assert here(monkeypatch, capsys, *words, "--as", "turns").err == (
        "orthoplex: --as 'turns': write TEAM/RUN, as in default/reviews\n"
    )
    told.write_text("tasks: []\n")
    code, out, err = here(monkeypatch, capsys, *words, "--as", "team/x")
    assert code == 2 and "has the sections model and task" in err
    predictor = Predictor("team/turns@v1", store=str(tmp_path / "store"), max_new_tokens=4)
    assert predictor.generate([[{"role": "user", "content": "hello"}]])[0].finish_reason in ("stop", "length")


def test_rows_of_the_task_are_named_in_the_file(place: Path, tmp_path: Path) -> None:
    """A task with its data stands as it is; the labels are still to be said."""
    task = classification(tmp_path, "a", WORDS[0])
    with pytest.raises(ConfigError, match="--labels"):
        import_lora(place / "lora", "t", "x", str(tmp_path / "s"), Wanted(model={"prompt": "{text} is"}, task=task))
    told = Wanted(model={"prompt": "text : {text} is :", "max_length": 64}, task={**task, "labels": [*WORDS[0]]})
    import_lora(place / "lora", "t", "x", str(tmp_path / "s"), told)
    assert Predictor("t/x@v1", store=str(tmp_path / "s")).repertoire.run.tasks[0].source == "files"


def test_the_commands_that_tell_of_it(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its log in words, its state, its manifest; nothing of it is left over."""
    for words, said in (
        (("logs", "team/qa"), "begins as a LoRA from elsewhere, the folder lora; base "),
        (("status", "team/qa"), "published"), (("explain", "team/qa"), "qa"),
        (("adapters", "show", "team/qa@v1", "--tree"), "qa"), (("adapters", "list", "--team", "team"), "team/qa@v1"),
        (("adapters", "verify", "team/qa"), "team/qa"), (("adapters", "gc", "team/qa"), ""),
    ):  # fmt: skip
        code, out, err = here(monkeypatch, capsys, *words, "--store", place / "store")
        assert code == 0 and said in out, (words, out, err)


def test_an_encoder_decoder(tmp_path: Path) -> None:
    """Against PEFT's own answers."""
    import transformers
    from peft import PeftModel

    base, auto = save_tiny("t5", tmp_path / "base"), "AutoModelForSeq2SeqLM"
    how = {"target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"}
    save_peft(base, tmp_path / "lora", auto, **how)
    import_lora(tmp_path / "lora", "t", "t5", str(tmp_path / "store"), wanted())
    found = [each.answer for each in Predictor("t/t5@v1", store=str(tmp_path / "store")).generate(PROMPTS)]
    model = PeftModel.from_pretrained(getattr(transformers, auto).from_pretrained(base), tmp_path / "lora").eval()
    words, expected = transformers.AutoTokenizer.from_pretrained(base), []
    for prompt in PROMPTS:
        ids = words(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
        expected.append(words.decode(made[0, 1:], skip_special_tokens=True))
    assert found == expected and len({*found}) > 1
