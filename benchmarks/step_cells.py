"""The cells of `step_time.py`: models with random weights, and what each cell does in a step.

The layouts are those of training: adapters in place first, then the blocks compiled, then the optimizer.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from trainers.method_config import AdapterConfig
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.layers import attach, use
from trainers.methods.targets import match_modules, width
from trainers.models.loading import compile_blocks

RANK, PAST_RANK = 16, 5  # of a new adapter, and of each past task
PAST = (0, 1, 15, 50, 200)
CONTROLS = ("limit", "lora")
CELLS = [
    "forward", *CONTROLS, "adalora", "olora@15",
    *(f"ours@{t}" for t in PAST), *(f"ours-concat@{t}" for t in PAST if t), *(f"bank@{t}" for t in (0, 15, 200)),
]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model and its batch: B rows of S tokens, of which the last A (causal) or A more (decoder) are scored."""

    model: Callable[[], nn.Module]
    targets: tuple[str, ...]
    attention: tuple[str, str]
    task_type: str
    batch: int
    length: int
    answer: int = 8


def t5(**shape: Any) -> nn.Module:
    """A T5 of that shape, with its plain feed-forward layers (relu)."""
    config = transformers.T5Config(dropout_rate=0.0, **shape)
    return transformers.T5ForConditionalGeneration(config)


def llama(**shape: Any) -> nn.Module:
    """A Llama of that shape."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))


LARGE = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "vocab_size": 32128}
SMALL = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "vocab_size": 1000}
BILLION = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000,
}  # fmt: skip
T5_LAYERS = ("o", "wo"), ("q", "v"), "SEQ_2_SEQ_LM"
LLAMA_LAYERS = ("o_proj", "down_proj"), ("q_proj", "v_proj"), "CAUSAL_LM"
SHAPES = {
    "t5-large": Shape(partial(t5, **LARGE), *T5_LAYERS, batch=64, length=512),
    "llama-1b": Shape(partial(llama, **BILLION), *LLAMA_LAYERS, batch=16, length=512),
    "cpu": Shape(partial(t5, **SMALL), *T5_LAYERS, batch=8, length=64),
}


@dataclass
class Bench:
    """A frozen model on a device with random weights, made there, and a batch for it; `seen` is the last loss."""

    shape: Shape
    device: torch.device
    dtype: torch.dtype
    compiled: bool

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                self.model: Any = self.shape.model().eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        self.seen = torch.zeros((), device=self.device)
        ids = torch.randint(5, 1000, (self.shape.batch, self.shape.length), device=self.device)
        self.embeddings = self.model.get_input_embeddings()(ids).detach()
        self.answers = torch.randint(5, 1000, (self.shape.batch, self.shape.answer), device=self.device)

    def compile(self) -> None:
        """Compiles the blocks where asked for; to be called when the adapters are in place."""
        if self.compiled:
            compile_blocks(self.model, dynamic=False)

    def loss(self, *, own: bool = False) -> Tensor:
        """Cross-entropy of the answers; `own`: as the model computes it, with what PEFT adds."""
        inputs: dict[str, Any] = {"inputs_embeds": self.embeddings, "use_cache": False}
        if self.model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = self.answers
        else:
            inputs["logits_to_keep"] = self.shape.answer
        if own:
            loss: Tensor = self.model(**inputs, labels=self.answers).loss
        else:
            logits = self.model(**inputs).logits.flatten(0, 1).float()
            loss = nn.functional.cross_entropy(logits, self.answers.flatten())
        self.seen = loss.detach()
        return loss


Step = Callable[[], None]


def cell_step(cell: str, bench: Bench) -> Step:
    """The callable that makes one step of a cell."""
    name, _, past = cell.partition("@")
    return BUILDERS[name](bench, int(past or 0))


def forward_only(bench: Bench, _past: int) -> Step:
    """Frozen forward."""
    bench.compile()

    def step() -> None:
        with torch.no_grad():
            bench.loss()

    return step


def limit(bench: Bench, _past: int) -> Step:
    """Frozen forward and activation-only backward: what no adapter in every layer can do without."""
    bench.embeddings.requires_grad_()
    bench.compile()

    def step() -> None:
        bench.loss().backward()
        bench.embeddings.grad = None

    return step


def peft_step(
    bench: Bench, config: Any, loss: Callable[[], Tensor], after: Callable[[int], None] | None = None
) -> Step:
    """PEFT over the model, its matrices in the model's dtype, AdamW; `after` comes between update and `zero_grad`."""
    import peft

    bench.model = peft.get_peft_model(bench.model, config, autocast_adapter_dtype=False)
    bench.compile()
    optimizer = adamw(p for p in bench.model.parameters() if p.requires_grad)
    steps = itertools.count()

    def step() -> None:
        loss().backward()
        optimizer.step()
        if after is not None:
            after(next(steps))
        optimizer.zero_grad(set_to_none=True)

    return step


def lora_config(bench: Bench) -> Any:
    """LoRA on the layers that ours adapts."""
    import peft

    return peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(bench.shape.targets))


def lora(bench: Bench, _past: int) -> Step:
    """PEFT LoRA."""
    return peft_step(bench, lora_config(bench), bench.loss)


def adalora(bench: Bench, _past: int) -> Step:
    """PEFT AdaLoRA as its guide has it: it adds orthogonality to the model's own loss, and allocates every step."""
    import peft

    config = peft.AdaLoraConfig(
        init_r=12, target_r=8, tinit=0, tfinal=1, deltaT=1, total_step=10_000,
        target_modules=list(bench.shape.attention), task_type=bench.shape.task_type,
    )  # fmt: skip
    return peft_step(
        bench, config, lambda: bench.loss(own=True), lambda count: bench.model.base_model.update_and_allocate(count + 1)
    )


def olora(bench: Bench, past: int) -> Step:
    """O-LoRA (Wang et al., arXiv:2310.14152): λ1 Σ over modules ‖A_past A_newᵀ‖₁, one module after the other.

    Only that loss is counted; the past tasks' own low-rank passes and the L2 term (λ2 = 0) are left out.
    """
    earlier: dict[str, Tensor] = {}

    def loss() -> Tensor:
        total = bench.loss()
        for name, parameter in bench.model.named_parameters():
            if "lora_A" in name:
                if name not in earlier:
                    earlier[name] = torch.randn(past * PAST_RANK, parameter.shape[1]).to(parameter) * 0.02
                total = total + 0.5 * torch.abs(torch.mm(earlier[name], parameter.T)).sum()
        return total

    return peft_step(bench, lora_config(bench), loss)


def new_bank(bench: Bench, past: int) -> tuple[dict[str, Any], AdapterBank]:
    """The target layers and a bank for them; all layers of one width have the same random history."""
    modules = match_modules(bench.model, bench.shape.targets)
    widths = {name: width(module) for name, module in modules.items()}
    bases = {
        d: torch.linalg.qr(torch.randn(d, min(d, past * PAST_RANK), device=bench.device))[0]
        for d in set(widths.values())
    }
    written = {name: bases[d] for name, d in widths.items()}
    read = {name: torch.zeros(d, 0, device=bench.device) for name, d in widths.items()}
    config = AdapterConfig.model_validate(
        {
            "target_modules": list(bench.shape.targets), "max_rank": RANK,
            "orthogonality": {"weight": 5.0}, "functional": {"weight": 0.0},
        }
    )  # fmt: skip
    return modules, AdapterBank(widths, config, torch.Generator().manual_seed(0), written, read).to(bench.device)


def ours(bench: Bench, past: int, concatenated: bool = False) -> Step:
    """OA-Adapter as the product trains it. Folding changes weights, not shapes, so the weights are left as they are."""
    modules, bank = new_bank(bench, past)
    attach(modules)
    for module in modules.values() if concatenated else ():
        rows = torch.randn(past * PAST_RANK, width(module), device=bench.device, dtype=bench.dtype) / 1000
        module.__dict__["history"] = rows, rows.T.contiguous()
    bench.compile()
    optimizer = adamw(bank.parameters())

    def step() -> None:
        outputs = bank(bench.dtype)
        use(modules, bank.pairs(outputs))
        weights = bank.config.orthogonality.weight, bank.config.budget_weight
        (bench.loss() + weights[0] * outputs[-2] + weights[1] * outputs[-1]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def bank_alone(bench: Bench, past: int) -> Step:
    """Gates, casts, penalty and budget with their gradients, and the optimizer: all that is not in the layers."""
    _, bank = new_bank(bench, past)
    optimizer = adamw(bank.parameters())

    def step() -> None:
        outputs = bank(bench.dtype)
        sum(output.float().sum() for output in outputs).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


BUILDERS: dict[str, Callable[[Bench, int], Step]] = {
    "forward": forward_only, "limit": limit, "lora": lora, "adalora": adalora, "olora": olora, "ours": ours,
    "ours-concat": partial(ours, concatenated=True), "bank": bank_alone,
}  # fmt: skip


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW, fused on a GPU."""
    kept = list(parameters)
    return torch.optim.AdamW(kept, lr=1e-4, fused=kept[0].is_cuda or None)
