"""What notebooks show of what the public interface gives back."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import orthoplex
from orchestrator.track.state import RunState
from orthoplex.notebook import in_notebook
from orthoplex.shown import Listing, Run, as_html, of
from tests.support.fake_workers import finished_run, run_config


class Output:
    """A display of IPython."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def update(self, shown: Any) -> None:
        self.seen.append(shown._repr_html_())


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Output:
    """IPython, as in the kernel of a notebook."""
    output = Output()
    shell = SimpleNamespace(kernel=object())
    module = SimpleNamespace(get_ipython=lambda: shell)
    display = SimpleNamespace(display=lambda shown, display_id: (output.update(shown), output)[1])
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return output


def test_a_state_is_shown_as_status_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path, monkeypatch)
    state = orthoplex.status("stream", store=str(tmp_path))
    html = state._repr_html_()
    assert isinstance(state, RunState) and isinstance(state.upto(1), Run)
    assert html.startswith("<pre>default/stream: finished, 2 of 2 tasks</pre>")
    assert html.count("<table>") == 2 and "<caption>Accuracy on the test splits, points</caption>" in html
    assert "<td" in html and "AA (average accuracy, macro)" in html and "layer.0.dense" in html
    assert "┃" not in html and "\x1b" not in html


def test_the_listing_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path, monkeypatch)
    registry = orthoplex.Registry(str(tmp_path))
    registry.promote("stream@v1", "production")
    html = registry.list()._repr_html_()
    assert "<caption>2 adapters</caption>" in html and "default/stream@v2" in html and "production" in html
    assert Listing()._repr_html_().startswith("<table><caption>0 adapters</caption>")


def test_a_run_is_followed_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: Output) -> None:
    finished_run(tmp_path, monkeypatch)
    assert in_notebook()
    orthoplex.run(orthoplex.status("stream", store=str(tmp_path)).config)
    from orthoplex.notebook import Shown
    from trainers.messages import Progress

    shown = Shown()
    shown.progress("a<b", Progress(0, "train", 2, 6, loss=0.5))
    assert notebook.seen[-1].startswith('<progress value="2" max="6"></progress> a&lt;b: train 2/6, loss 0.500')
    shown.progress("a", Progress(0, "validation", 1, 2))
    assert "loss" not in notebook.seen[-1]
    shown.say("<i>")
    state = orthoplex.status("stream", store=str(tmp_path))
    shown.committed(state)
    assert notebook.seen[-1].startswith(
        "<pre>&lt;i&gt;\ncommitted as default/stream@v2; accuracy on tasks so far: a 50.0"
    )


def test_no_notebook_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    terminal = SimpleNamespace(get_ipython=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not in_notebook()


def test_screens_of_a_kernel_are_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a kernel, rich would show what it prints instead of writing it."""
    from orchestrator.console.screen import out

    monkeypatch.setattr(out, "is_jupyter", True)
    assert as_html(lambda: out.print("a < b", markup=False)) == "<pre>a &lt; b</pre>" and out.is_jupyter
    assert capsys.readouterr().out == ""


def test_a_plan_and_a_sweep_have_a_form_for_notebooks(tmp_path: Path) -> None:
    from orchestrator.run.evaluation import Cost
    from orchestrator.run.plan import Plan
    from orchestrator.sweeps.config import SweepConfig
    from orchestrator.sweeps.sweep_state import SweepState
    from orthoplex.planned import Planned
    from orthoplex.swept import Swept

    cost = {"passes": 1, "rows": 2, "trained_rows": 3, "generated_tokens": 0, "kept_answers": 0}
    plan = Plan(
        name="<n>", state="absent", store="s", tasks=[], method="oa", protected=[], modules={"layer": 4},
        base_parameters=7, trained_parameters=5, most_kept_parameters=5, steps=[], evaluation=Cost(**cost),
        workers=1, zero_stage=2, memory_per_worker_bytes={"weights": 2**30}, rounding=None, writes=["x"],
        objections=[], way_on="", notes=[], time=None, joint=False, replayed=[],
    )  # fmt: skip
    html = of(Planned, plan)._repr_html_()
    assert "&lt;n&gt;: not begun; 1 worker" in html and "<caption>Tasks</caption>" in html
    config = SweepConfig.model_construct(name="s<", run=run_config(tmp_path))
    swept = of(Swept, SweepState(), searched=config, folder=tmp_path)
    assert "default/s&lt;: absent; trials: none ended" in swept._repr_html_()
