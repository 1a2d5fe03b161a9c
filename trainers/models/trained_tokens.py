"""−log p of the tokens that are trained, without the logits of any other.

Shape suffixes: L lines, S tokens of a line, N trained tokens, D model width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.data.lines import Lines, in_lines
from trainers.models.capabilities import evaluating, taken, takes
from trainers.zero import gathered

CHUNK = 1024  # tokens whose logits exist at once
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reading:
    """How a decoder reads rows. `plain`: its logits are its head's alone. `packs`: several rows may share a line."""

    plain: bool
    packs: bool

    @classmethod
    def of(cls, model: Any, tokens: tuple[int, int]) -> "Reading":
        """As probes with two tokens find it. Collective if the model is partitioned."""
        return cls(gives_head(model, tokens[0]), keeps_apart(model, tokens))


def token_losses(model: Any, batch: Lines, *, plain: bool) -> Tensor:
    """(N,) float32 −log p of each trained token.

    The model's head gets the hidden states of the trained tokens alone: a hook on it takes them out of those of all. If
    the model's logits are the head's (`plain`), they are computed for CHUNK tokens at a time, and gone before the next
    ones are there, unless the head itself is trained.
    """
    assert batch.answers is not None
    if plain:
        with head_input(model, lambda hidden_LSD: hidden_LSD[:, -1:]) as seen:
            run(model, batch)
        hidden_ND = seen[0].flatten(0, 1)[batch.places]
        head = model.get_output_embeddings()
        with gathered(head.parameters()):  # once: ranks have unequal numbers of chunks, and would wait for each other
            trained = head.forward(hidden_ND[:0].detach()).requires_grad
            if torch.is_grad_enabled() and hidden_ND.requires_grad and not trained:
                losses_N: Tensor = FrozenHead.apply(hidden_ND, head, batch.answers)
                return losses_N
            return torch.cat([nll(head, *chunk) for chunk in chunks(hidden_ND, batch.answers)])
    with head_input(model, lambda hidden_LSD: hidden_LSD.flatten(0, 1)[batch.places].unsqueeze(0)):
        logits_NV = run(model, batch)[0]
    return cross_entropy(logits_NV.float(), batch.answers, reduction="none")


class FrozenHead(torch.autograd.Function):
    """−log p of tokens under a head that is not trained: (N, D), head, (N,) → (N,).

    The gradient is computed with the losses. A head that ZeRO 3 partitions is not whole when `torch.utils.checkpoint`
    computes its saved tensors again.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head: nn.Module, tokens_N: Tensor) -> Tensor:
        """Keeps ∂(−log p)/∂hidden, (N, D): each loss is that of its own row alone."""
        losses, gradients = list[Tensor](), list[Tensor]()
        for hidden, tokens in chunks(hidden_ND, tokens_N):
            with torch.enable_grad():
                leaf = hidden.detach().requires_grad_()
                found = nll(head, leaf, tokens)
                gradients += torch.autograd.grad(found.sum(), leaf)
            losses.append(found.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None, None]:
        """The kept gradient times that of each loss."""
        (gradient_ND,) = ctx.saved_tensors
        return gradient_ND * upstream_N.unsqueeze(1).to(gradient_ND.dtype), None, None


def chunks(hidden_ND: Tensor, tokens_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """CHUNK rows of both at a time."""
    return zip(hidden_ND.split(CHUNK), tokens_N.split(CHUNK), strict=True)


def nll(head: nn.Module, hidden_ND: Tensor, tokens_N: Tensor) -> Tensor:
    """(N,) −log p of the tokens."""
    return cross_entropy(head.forward(hidden_ND).float(), tokens_N, reduction="none")  # past hooks that gather it


def run(model: Any, batch: Lines) -> Tensor:
    """The model's logits of the lines, as its head and what follows it give them."""
    given = taken(model, position_ids=batch.positions, use_cache=False)
    logits: Tensor = model(input_ids=batch.ids, attention_mask=batch.attention, **given).logits
    return logits


@contextmanager
def head_input(model: Any, change: Change) -> Iterator[list[Tensor]]:
    """Within the block the model's head gets `change` of its input; yields a list that gets what the input was."""
    seen: list[Tensor] = []

    def hook(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0])
        return (change(inputs[0]), *inputs[1:])

    # Before the hooks of ZeRO 3. They mark the input as the head's, and its gradient would release what nobody fetched.
    handle = model.get_output_embeddings().register_forward_pre_hook(hook, prepend=True)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def gives_head(model: Any, token: int) -> bool:
    """Whether the model's logits are what its head makes of its input, without a factor or a bound of their own.

    Collective if the model is partitioned.
    """
    ids = torch.full((1, 3), token, device=next(model.parameters()).device)
    with evaluating(model), head_input(model, lambda hidden: hidden) as seen:
        logits = model(input_ids=ids, **taken(model, use_cache=False)).logits
    return torch.equal(model.get_output_embeddings()(seen[0]), logits)


@torch.no_grad()
def keeps_apart(model: Any, tokens: tuple[int, int]) -> bool:
    """Whether rows in one line have the losses that they have alone. Models that place tokens by their mask do not.

    Collective if the model is partitioned.
    """
    if not takes(model, "position_ids"):
        return False
    one, other = tokens
    ids = [np.resize([one, other, other], 13), np.resize([other, one], 9), np.resize([one, one, other], 17)]
    trained = [np.arange(len(row)) > 0 for row in ids]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            together, alone = (
                token_losses(model, in_lines(ids, trained, one, capacity).to(device), plain=False)
                for capacity in (40, None)
            )
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    return torch.allclose(together, alone, rtol=1e-2, atol=1e-2 if together.dtype != torch.float32 else 1e-4)
