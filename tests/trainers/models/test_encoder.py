"""The encoder that compares a text with label words, against the formula one text at a time."""

import numpy as np
import torch

from tests.support.families import TARGETS, TEXTS, WORDS, minilm
from trainers.models.encoder import LabelEmbedding


def test_label_embedding_one_text_at_a_time() -> None:
    """20 · cos of mean token vectors, computed without a batch and without padding, in float64."""
    bone = minilm()
    assert isinstance(bone, LabelEmbedding)
    labels, rows = bone.encode_labels(WORDS), bone.tokenize(TEXTS)

    def unit(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            mean = bone.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().mean(0).numpy()
        return mean / np.linalg.norm(mean)

    logits = 20 * np.array([[unit(row) @ unit(word) for word in bone.tokenize(WORDS)] for row in rows])
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), TARGETS]
    with torch.no_grad():
        losses = bone.losses(bone.batch(rows, TARGETS, labels), labels)
        assert bone.predict(rows, labels, 3).tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(losses.numpy(), expected, atol=2e-4)
    assert bone.units(labels).tolist() == [1] * len(WORDS)
