"""Encoder-decoders such as T5: the encoder reads the text, and the decoder gives the answer.

Shape suffixes as in `base`.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.data.collate import Batch
from trainers.data.prompts import Prompt
from trainers.models.base import PLAIN, Answers
from trainers.models.capabilities import check_repeatable, most_positions
from trainers.models.text_to_text import TextToText, Then, summed_nll
from trainers.models.words import check_known

PROBE_TEXT, PROBE_ANSWER = 3, 2  # tokens; unequal, so that a layer shows which of the two it reads


class Seq2Seq(TextToText):
    """An encoder-decoder: the encoder reads the text, and the decoder gives the answer."""

    @property
    def start(self) -> int:
        """The decoder's first token: the configuration's, else that for generation, see `loading.first_token`."""
        configs = self.model.config, self.model.generation_config
        found: list[int | None] = [getattr(config, "decoder_start_token_id", None) for config in configs]
        first = next((token for token in found if token is not None), None)
        if first is None:
            raise ConfigError(
                "model.name: neither config.json nor generation_config.json of the model has a decoder_start_token_id, "
                "with which every answer begins; set it in config.json (for models like T5 to that of padding)"
            )
        return first

    def check_tokens(self) -> None:
        """See TextToText; also that the decoder has a token to begin with."""
        super().check_tokens()
        first = self.start
        if self.embeddings is not None:
            check_known(self.tokenizer, [first], self.embeddings, "every answer begins with")

    def encode_answers(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Answers:
        """As TextToText's.

        Raises:
            ConfigError: an answer is beyond the decoder's positions.
        """
        answers = super().encode_answers(words, prompt)
        most = None if self.model is None else most_positions(self.model, answers=True)
        longest = max(map(len, answers))
        if most and longest > most:
            word = words[[*map(len, answers)].index(longest)]
            raise ConfigError(
                f"label {word[:40]!r} takes {longest} tokens, beyond the model's {most} positions for answers; "
                "shorten it"
            )
        return answers

    def answer_batch(self, token_ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Batch:
        """Texts and answers apart, both padded on the right."""
        return self.collate(token_ids, answers, pad_id=self.pad_id).to(self.device)

    def answer_losses(self, batch: Batch) -> Tensor:
        """−Σ log p over the tokens of each row's answer, its end included."""
        assert batch.answers is not None
        start_B1 = torch.full_like(batch.answers[:, :1], self.start)
        logits_BAV = self.model(
            input_ids=batch.ids, attention_mask=batch.attention,
            decoder_input_ids=torch.cat([start_B1, batch.answers[:, :-1]], 1), use_cache=False,
        ).logits  # fmt: skip
        return summed_nll(logits_BAV, batch)

    @torch.no_grad()
    def reads_answers(self, modules: Mapping[str, nn.Module]) -> frozenset[str]:
        """Names of the layers whose rows are the answers' tokens: the decoder's, except keys and values of its
        cross-attention, which are computed from the text. Models name those differently, so one pass over a text and an
        answer of unequal lengths finds them. Collective if the model is partitioned."""
        seen: dict[str, int] = {}

        def note(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output.shape[:-1].numel()

        hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
        end = self.tokenizer.eos_token_id
        try:
            self.answer_losses(self.answer_batch([[end] * PROBE_TEXT], [[end] * PROBE_ANSWER]))
        finally:
            for hook in hooks:
                hook.remove()
        return frozenset(name for name, tokens in seen.items() if tokens == PROBE_ANSWER)

    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Then]:
        """One pass of the encoder, and of the decoder over its start token; the rest reuses their keys and values."""
        texts = self.pad(token_ids)
        start_B1 = torch.full_like(texts.ids[:, :1], self.start)
        seen = self.model(input_ids=texts.ids, attention_mask=texts.mask, decoder_input_ids=start_B1, use_cache=True)
        check_repeatable(seen.past_key_values)

        def then(answers_NA: Tensor) -> Tensor:
            seen.past_key_values.batch_repeat_interleave(classes)
            encoded = (seen.encoder_last_hidden_state.repeat_interleave(classes, 0),)
            return self.model(
                encoder_outputs=encoded, attention_mask=texts.mask.repeat_interleave(classes, 0),
                decoder_input_ids=answers_NA, past_key_values=seen.past_key_values, use_cache=True,
            ).logits  # fmt: skip

        return seen.logits[:, -1], then
