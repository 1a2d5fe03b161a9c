"""The stacked adapters against each module written out on its own."""

import pytest
import torch

from cluster.errors import ConfigError
from trainers.method_config import AdapterConfig
from trainers.methods.oa.artifact import extract
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.subspace import Basis

WIDTHS = {"a.q": 16, "b.q": 16, "a.o": 24, "b.o": 24}


def config(**overrides: object) -> AdapterConfig:
    return AdapterConfig.model_validate({"target_modules": ["q", "o"], "max_rank": 4, **overrides})


def bank_of(settings: AdapterConfig, history: int = 5, seed: int = 0) -> AdapterBank:
    generator = torch.Generator().manual_seed(seed)
    bases = [
        {
            n: torch.linalg.qr(torch.randn(d, max(history - i, 0), generator=generator))[0]
            for i, (n, d) in enumerate(WIDTHS.items())
        }
        for _ in range(2)
    ]
    bank = AdapterBank(WIDTHS, settings, generator, *bases)
    for name, parameter in bank.named_parameters():
        if name.startswith("W2"):
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        if name.startswith("g"):
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return bank


def basis(bank: AdapterBank, kind: str, name: str) -> torch.Tensor:
    index = next(i for i, group in enumerate(bank.groups) if name in group.names)
    return bank.get_buffer(f"{kind}_{index}")[bank.groups[index].names.index(name)]


@pytest.mark.parametrize("mode", ["penalty", "projection"])
@pytest.mark.parametrize("side", ["output", "input", "both"])
def test_one_call_gives_what_each_module_alone_would(mode: str, side: str) -> None:
    bank = bank_of(config(orthogonality={"mode": mode, "side": side, "weight": 1.0}))
    outputs = bank(torch.float32)
    pairs, *_ = bank.pairs(outputs), outputs
    total, pull = 0.0, []
    for name, state in bank.snapshot().items():
        index = next(i for i, group in enumerate(bank.groups) if name in group.names)
        row = bank.groups[index].names.index(name)
        w1, w2, g, tau = (bank.get_parameter(f"{k}_{index}")[row].detach().double() for k in ("W1", "W2", "g", "tau"))
        q, p = (basis(bank, kind, name).double() for kind in ("written", "read"))
        gamma = g.sign() * (g.abs() - tau.abs()).clamp_min(0)
        if side != "output":
            w1 = w1 - (w1 @ p) @ p.T
        if side != "input" and mode == "projection":
            w2 = w2 - q @ (q.T @ w2)
        if side != "input" and mode == "penalty":
            total += float((q.T @ w2).square().sum())
        pull.append(float(gamma.abs().sum()))
        down, up = pairs[name]
        assert torch.allclose(down.double(), w1, atol=1e-6)
        assert torch.allclose(up.double(), w2 * gamma, atol=1e-6)
        assert torch.allclose(state.gamma_R.double(), gamma, atol=1e-6) and state.tau == pytest.approx(float(tau))
    assert float(outputs[-2]) == pytest.approx(total, rel=1e-5)
    assert float(outputs[-1]) == pytest.approx(sum(pull) / len(pull), rel=1e-5)


def test_without_history_the_penalty_is_zero() -> None:
    assert float(bank_of(config(), history=0)(torch.float32)[-2]) == 0


def test_report_and_snapshot_agree() -> None:
    bank = bank_of(config())
    report, states = bank.report(), bank.snapshot()
    assert list(report) == list(states)
    for name, state in states.items():
        assert report[name].rank == int(state.active_R.sum())
        assert torch.equal(report[name].g_R, state.g_R)
        q, written = basis(bank, "written", name), state.w2_DR * state.gamma_R
        share = float((q.T @ written).square().sum() / written.square().sum().clamp_min(1e-30))
        assert report[name].overlap == pytest.approx(share, rel=1e-4)


def test_patterns_set_ceilings_and_floors_as_peft_does() -> None:
    bank = bank_of(config(rank_pattern={"a.o": 2, "q": 3}, min_rank_pattern={r"b\..*": 1}, threshold=50.0))
    assert {n: len(s.g_R) for n, s in bank.snapshot().items()} == {"a.q": 3, "b.q": 3, "a.o": 2, "b.o": 4}
    assert {n: r.rank for n, r in bank.report().items()} == {"a.q": 0, "b.q": 1, "a.o": 0, "b.o": 1}
    with pytest.raises(ConfigError, match=r"min_rank: 3 for 'a\.o' is above its ceiling of 2"):
        bank_of(config(rank_pattern={"a.o": 2}, min_rank=3))


def test_the_cap_on_the_total_is_met_and_keeps_the_largest_margins() -> None:
    bank = bank_of(config(threshold=0.1, max_parameters=200, min_rank_pattern={"a.q": 1}))
    before = bank.report()
    bank.limit(200)
    after = bank.report()
    spent = sum(report.rank * (2 * WIDTHS[name] + 1) for name, report in after.items())
    assert sum(r.rank * (2 * WIDTHS[n] + 1) for n, r in before.items()) > 200 >= spent > 100
    assert after["a.q"].rank >= 1
    open_margin = min(
        float(s.g_R[s.gamma_R != 0].abs().min()) for n, s in bank.snapshot().items() if n != "a.q" and s.gamma_R.any()
    )
    shut = max(float(s.g_R[s.gamma_R == 0].abs().max()) for s in bank.snapshot().values() if (s.gamma_R == 0).any())
    assert open_margin > shut  # one τ₀ for all: the largest |g| stay
    with pytest.raises(ConfigError, match="max_parameters: 100 is less than the 164"):
        bank_of(config(max_parameters=100, min_rank=1))


def kept_alone(bank: AdapterBank, cap: int) -> dict[str, set[int]]:
    """What may stay open under the cap, from the gates alone: the largest margins in turn, all equal ones or none of
    them, after what the floors keep. Dimensions by layer."""
    floors, gates = bank.config.min_rank_pattern, {}
    for index, group in enumerate(bank.groups):
        for row, name in enumerate(group.names):
            g, tau = bank.get_parameter(f"g_{index}")[row].abs(), bank.get_parameter(f"tau_{index}")[row].abs()
            gates[name] = [*zip((g - tau).tolist(), g.tolist(), strict=True)]
    found, queue = {}, []
    for name, sizes in gates.items():
        order = sorted(range(len(sizes)), key=lambda i: -sizes[i][1])
        held = [i for i in order[: floors.get(name, 0)] if sizes[i][1] > 0]
        found[name] = set(held)
        queue += [(sizes[i][0], name, i) for i in order if i not in held and sizes[i][0] > 0]
    spent = sum(len(held) * (2 * WIDTHS[name] + 1) for name, held in found.items())
    for margin in sorted({margin for margin, *_ in queue}, reverse=True):
        alike = [(name, i) for m, name, i in queue if m == margin]
        spent += sum(2 * WIDTHS[name] + 1 for name, _ in alike)
        if spent > cap:
            break
        for name, i in alike:
            found[name].add(i)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("steps", [0, 8])  # gates on a grid have many equal values; 0 is none
def test_what_the_cap_counts_is_what_is_used_reported_and_stored(dtype: torch.dtype, steps: int) -> None:
    """In any dtype and with equal gates: rounding of τ + δ lets no dimension more through, and closes none."""
    floors = {"a.q": 1, "b.o": 2}
    bank = bank_of(config(max_parameters=200, min_rank_pattern=floors)).to(dtype)
    generator = torch.Generator().manual_seed(steps)
    for _ in range(60):
        for index in range(len(bank.groups)):
            for kind, spread in (("g", 1.0), ("tau", 0.2)):
                drawn = spread * torch.randn(bank.get_parameter(f"{kind}_{index}").shape, generator=generator)
                drawn = (drawn * steps).round() / steps if steps else drawn
                bank.get_parameter(f"{kind}_{index}").data = drawn.to(dtype)
        cap = int(torch.randint(131, 500, (), generator=generator))
        bank.limit(cap)
        expected = kept_alone(bank, cap)
        states, report, pairs = bank.snapshot(), bank.report(), bank.pairs(bank(dtype))
        assert {n: set(s.active_R.nonzero().flatten().tolist()) for n, s in states.items()} == expected
        assert {n: set(up.ne(0).any(0).nonzero().flatten().tolist()) for n, (_, up) in pairs.items()} == expected
        assert {n: r.rank for n, r in report.items()} == {n: len(held) for n, held in expected.items()}
        empty = {n: Basis.empty(d) for n, d in WIDTHS.items()}
        stored = extract(states, empty, empty, {}, 0.9)
        assert stored.parameters == sum(len(held) * (2 * WIDTHS[n] + 1) for n, held in expected.items()) <= cap


def test_gradients_reach_gates_and_matrices_through_every_output() -> None:
    bank = bank_of(config(threshold=0.1))
    outputs = bank(torch.bfloat16)
    assert outputs[0].dtype == torch.bfloat16 and outputs[-1].dtype == torch.float32
    sum(output.float().square().sum() for output in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in bank.parameters())
