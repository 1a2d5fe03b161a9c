"""What to change if a budget did nothing: if it switched nothing off, or everything."""

from collections.abc import Iterator, Sequence

from trainers.config import TrainConfig
from trainers.method_config import AdapterConfig
from trainers.training.decisions import ModuleDecision

STRONGER = 10  # times budget_weight
FASTER = 3  # times the rate of g and τ
LEAST = 0.05  # of τ₀, if all |g| are below

Change = tuple[str, str]  # what is set, and what it does


def verdict(budgets: Sequence[ModuleDecision]) -> str | None:
    """Whether the budgets of all layers did nothing, or left nothing, and why; None if neither."""
    if is_full(budgets):
        return f"The budget did nothing: every layer kept all its dimensions{why_full(budgets)}."
    return "The budget switched everything off: no layer kept a dimension." if is_empty(budgets) else None


def is_full(budgets: Sequence[ModuleDecision]) -> bool:
    """Whether all layers kept all dimensions."""
    return all(each.outcome["rank"] >= each.outcome["max_rank"] for each in budgets)


def is_empty(budgets: Sequence[ModuleDecision]) -> bool:
    """Whether no layer kept one."""
    return all(each.outcome["rank"] == 0 for each in budgets)


def why_full(budgets: Sequence[ModuleDecision]) -> str:
    """Why no dimension fell, as far as that is known."""
    if any(each.inputs["g"] is None for each in budgets):
        return ""
    if budgets[0].thresholds["threshold"] == 0:
        return ", since τ₀ = 0 stays 0"
    if floors(budgets):
        return ", since adapter.min_rank keeps them"
    highest, least = max(each.thresholds["tau"] for each in budgets), min(each.inputs["g"][-1] for each in budgets)
    start = budgets[0].thresholds["threshold"]
    return f", since τ went from {start:.3f} to at most {highest:.3f}, and the least |g| of all is {least:.3f}"


def floors(budgets: Sequence[ModuleDecision]) -> bool:
    """Whether floors keep all dimensions of all layers."""
    return all(each.thresholds["min_rank"] >= each.outcome["max_rank"] for each in budgets)


def advice(
    settings: AdapterConfig, train: TrainConfig, budgets: Sequence[ModuleDecision], parameters: int | None
) -> Iterator[str]:
    """Lines for a task whose budget did nothing, or left nothing: what to set in another run, and what each does, since
    a run's own settings stay what they are. `parameters` are those that the task kept. Nothing otherwise."""
    changes = [*fewer(settings, train, budgets, parameters)] if is_full(budgets) else []
    changes += more(settings) if is_empty(budgets) else []
    if changes:
        yield "To change that, begin another run, `orthoplex run CONFIG --set name=other`, with one or more of"
        yield from (f"  --set {key}   {what}" for key, what in changes)


def fewer(
    settings: AdapterConfig, train: TrainConfig, budgets: Sequence[ModuleDecision], parameters: int | None
) -> Iterator[Change]:
    """What lets layers switch dimensions off."""
    if floors(budgets):
        yield "adapter.min_rank=0", "lets layers fall below it"
        return
    sizes = sorted(size for each in budgets for size in each.inputs["g"])
    quarter = sizes[len(sizes) // 4]
    yield f"adapter.threshold={max(quarter, LEAST):.2g}", f"a higher τ₀: a quarter of |g| ended within {quarter:.2g}"
    if settings.threshold:
        weight = settings.budget_weight * STRONGER or 0.003
        yield f"adapter.budget_weight={weight:g}", "pulls |g| down and τ up more strongly"
        rate = train.budget_learning_rate_factor * FASTER
        yield f"train.budget_learning_rate_factor={rate:g}", "lets g and τ move faster"
    if parameters and parameters > 1:
        yield f"adapter.max_parameters={parameters // 2}", "bounds the total; what falls is what |g| and τ say"
    if settings.threshold and all(each.thresholds["tau"] < settings.threshold for each in budgets):
        yield f"adapter.max_rank={2 * settings.max_rank}", "gives more dimensions: the loss pulled every τ down"


def more(settings: AdapterConfig) -> Iterator[Change]:
    """What lets layers keep dimensions."""
    yield f"adapter.threshold={settings.threshold / 2:.2g}", "begins with a lower τ"
    if settings.budget_weight:
        yield f"adapter.budget_weight={settings.budget_weight / STRONGER:.2g}", "pulls |g| down less"
    yield "adapter.min_rank=1", "keeps one dimension per layer, whatever happens"
