"""Encoder-decoders: answers are the decoder's. Their losses against the models' own: `test_text_to_text`."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.families import (
    ALIKE,
    ANSWER,
    TEXTS,
    backbone,
    each_alone,
)
from tests.support.tiny_tokenizers import metaspace, trained


@pytest.mark.parametrize("family", ["t5", "flan-t5"])
def test_the_decoders_start_is_the_models(family: str) -> None:
    """Which need not be the padding token."""
    model = deepcopy(backbone(family).model)
    model.config.decoder_start_token_id = 33
    bone = replace(backbone(family), model=model)
    rows = bone.tokenize(TEXTS, ANSWER)[:6]
    naive = each_alone(bone, rows, ALIKE)
    with torch.no_grad():
        losses = bone.losses(bone.batch(rows, np.arange(6), ALIKE), ALIKE)
    torch.testing.assert_close(losses, -naive.diagonal(), rtol=1e-5, atol=0)
    torch.testing.assert_close(bone.log_likelihoods(rows, ALIKE), naive, rtol=1e-5, atol=0)


def test_labels_are_tokens_as_a_decoders_targets() -> None:
    fast = trained(metaspace, ["yes", "certainly not"] * 3, end=True)
    bone = replace(backbone("t5"), tokenizer=fast)
    assert bone.encode_labels(["yes", "certainly not"]) == fast(["yes", "certainly not"])["input_ids"]
