"""What `zero_pair` trains, step by step in plain PyTorch."""

import numpy as np
import torch

from tests.support.zero_pair import BATCHES, ROWS, STEPS, Setting, train_config
from trainers.config import learning_rate_factor
from trainers.methods.oa.layers import use
from trainers.methods.oa.orthogonality import penalty

Tensors = dict[str, torch.Tensor]
References = dict[tuple[str, str, str, str, bool], tuple[Tensors, Tensors]]


def reference(setting: Setting) -> tuple[Tensors, Tensors]:
    """Mean loss over the batch's terms, dense penalty module by module, torch's own clipping and AdamW.

    Returns:
        Parameters before the first step; and after the last one, with losses and scores.
    """
    bank, train = setting.bank(), train_config(1)
    start = {name: parameter.detach().clone() for name, parameter in bank.named_parameters()}
    matrices = [p for n, p in bank.named_parameters() if n.startswith("W")]
    gates = [p for n, p in bank.named_parameters() if not n.startswith("W")]
    rates = (train.learning_rate, train.learning_rate * train.budget_learning_rate_factor)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r, "weight_decay": 0.0} for p, r in zip((matrices, gates), rates, strict=True)]
    )
    first: Tensors = {}
    for step, batch in enumerate(BATCHES):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, train.warmup_steps, STEPS)
        outputs = bank(setting.dtype)
        use(setting.modules, bank.pairs(outputs))
        losses = setting.split.losses(setting.split.batch(batch))
        task = losses.sum() / int(setting.split.terms[batch].sum())
        names, written = list(setting.modules), setting.history.columns("written")
        orthogonality = sum(penalty(bank.W2_0[i][None], written[name][None]) for i, name in enumerate(names))
        budget = (bank.g_0.sign() * torch.relu(bank.g_0.abs() - bank.tau_0.abs()[:, None])).abs().sum() / len(names)
        functional = torch.zeros(())
        for i, name in enumerate(names) if setting.case.functional else ():
            up = bank.W2_0[i] * (bank.g_0[i].sign() * torch.relu(bank.g_0[i].abs() - bank.tau_0[i].abs()))
            u = up @ bank.W1_0[i]
            for felt in (task[name] for task in setting.history.felt):
                c, g = felt.read.dense().float(), felt.loss.dense().float()
                functional = functional + torch.trace(u @ c @ u.T @ g)
        if not first:
            first = {"loss/task": losses.sum().detach(), "loss/orthogonality": orthogonality.detach()}
            first["loss/budget"] = budget.detach()
            first |= {"loss/functional": functional.detach()} if setting.case.functional else {}
        optimizer.zero_grad()
        (
            task
            + setting.adapter.orthogonality.weight * orthogonality
            + setting.adapter.functional.weight * functional
            + setting.adapter.budget_weight * budget
        ).backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *gates], train.max_grad_norm)
        optimizer.step()
    use(setting.modules, {})
    with torch.no_grad():
        first["eval/rows"] = setting.split.losses(setting.split.batch(np.arange(ROWS)))
    guesses = setting.backbone.predict(setting.split.token_ids, setting.split.labels, 64)
    first["eval/correct"] = (guesses == torch.as_tensor(setting.split.targets)).sum().float()
    return start, first | {name: parameter.detach() for name, parameter in bank.named_parameters()}
