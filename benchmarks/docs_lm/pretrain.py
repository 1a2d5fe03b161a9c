"""Pretrains docs-lm on one GPU: tokenizer, weights, held-out perplexity.

    python -m benchmarks.docs_lm.pretrain CORPUS.jsonl.gz OUTPUT --minutes 8

One document in a hundred is held out by the hash of its text. A fifth of the documents are written as a conversation
(the user begins a text, the assistant goes on), so that the template's tokens mean something. The schedule is by time:
a linear warm-up, then a cosine to a twentieth. OUTPUT gets the model's folder as transformers has it, and
`training.json`, the figures of the card.
"""

import argparse
import gzip
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, TURN, TURN_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCABULARY = 4096
LENGTH = 512
BATCH = 256
PEAK, FLOOR, WARMUP = 4e-3, 0.05, 0.03
CHAT_SHARE, HELD_OUT_SHARE = 0.2, 0.01
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 672, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
}  # fmt: skip


def share(text: str) -> float:
    """A number from 0 to 1 by the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def documents(path: Path) -> tuple[list[str], list[str]]:
    """Training and held-out documents."""
    with gzip.open(path, "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [t for t in texts if share(t) >= HELD_OUT_SHARE], [t for t in texts if share(t) < HELD_OUT_SHARE]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a third of the documents. Runs of spaces may be one token; digits are single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[^\S\n]*\n+| +(?= \S)| ?[^\s\w]+| ?[^\W\d]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, TURN, TURN_END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts[::3], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, additional_special_tokens=[TURN, TURN_END],
        model_max_length=SHAPE["max_position_embeddings"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.chat_template = TEMPLATE
    return wrapped


def chat(text: str, rng: random.Random) -> str:
    """The text as a conversation: the user begins it, the assistant goes on from a line or a sentence."""
    cuts = [i for i in range(20, len(text) - 20) if text[i] == "\n" or text[i - 1 : i + 1] == ". "]
    if not cuts:
        return text
    cut = rng.choice(cuts)
    user, assistant = text[:cut].strip(), text[cut:].strip()
    return f"{TURN}user\n{user}{TURN_END}\n{TURN}assistant\n{assistant}{TURN_END}\n"


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], seed: int) -> np.ndarray:
    """All documents in a drawn order as one row of token ids, each with the end token after it."""
    rng = random.Random(seed)
    texts = [chat(text, rng) if rng.random() < CHAT_SHARE else text for text in texts]
    rng.shuffle(texts)
    ids = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.concatenate([np.array([*one.ids, tokenizer.eos_token_id], dtype=np.int32) for one in ids])


def batches(ids: np.ndarray, seed: int) -> Iterator[Tensor]:
    """(BATCH, LENGTH + 1) windows, every token once per epoch, from another offset each time, without end."""
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(ids).cuda()
    while True:
        offset = int(rng.integers(LENGTH))
        starts = rng.permutation(np.arange(offset, len(ids) - LENGTH - 1, LENGTH))
        for at in range(0, len(starts) - BATCH + 1, BATCH):
            rows = torch.from_numpy(starts[at : at + BATCH]).cuda()
            yield tokens[rows[:, None] + torch.arange(LENGTH + 1, device="cuda")].long()


def rate(progress: float) -> float:
    """Share of the peak learning rate at a share of the time."""
    if progress < WARMUP:
        return progress / WARMUP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP))))


@dataclass
class Figures:
    """What the card says of a training."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    corpus_tokens: int = 0
    epochs: float = 0.0
    parameters: int = 0
    held_out_tokens: int = 0
    held_out_nll: float = 0.0
    held_out_perplexity: float = 0.0
    held_out_bits_per_byte: float = 0.0
    device: str = ""


def loss_of(model: torch.nn.Module, rows: Tensor) -> Tensor:
    """Mean −log p of the next token."""
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def train(model: LlamaForCausalLM, ids: np.ndarray, minutes: float, seed: int) -> Figures:
    """Trains in place until the time is over."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)
    compiled = torch.compile(model)
    feed = batches(ids, seed)
    loss_of(compiled, next(feed)).backward()  # compiles before the clock starts
    optimizer.zero_grad()
    figures, began = Figures(corpus_tokens=len(ids)), time.monotonic()
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate(progress)
        loss = loss_of(compiled, next(feed))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        figures.steps += 1
        if figures.steps % 200 == 0:
            print(f"step {figures.steps} at {progress:.1%}: {loss.item():.4f}", flush=True)
    figures.seconds = time.monotonic() - began
    figures.tokens = figures.steps * BATCH * LENGTH
    figures.epochs = figures.tokens / len(ids)
    return figures


@torch.no_grad()
def judge(model: LlamaForCausalLM, ids: np.ndarray, characters: int, figures: Figures) -> None:
    """Held-out perplexity, in windows of LENGTH that do not overlap, of the weights as they are stored, in bfloat16."""
    stored = model.to(torch.bfloat16).eval()
    rows = torch.from_numpy(ids[: (len(ids) - 1) // LENGTH * LENGTH + 1]).cuda().long()
    windows = torch.stack([rows[at : at + LENGTH + 1] for at in range(0, len(rows) - 1, LENGTH)])
    losses = [float(loss_of(stored, part)) * len(part) for part in windows.split(64)]
    figures.held_out_nll = sum(losses) / len(windows)
    figures.held_out_perplexity = math.exp(figures.held_out_nll)
    figures.held_out_tokens = len(windows) * LENGTH
    figures.held_out_bits_per_byte = figures.held_out_nll / math.log(2) * len(ids) / characters


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    texts, kept = documents(arguments.corpus)
    tokenizer = train_tokenizer(texts)
    ids = encode(tokenizer, texts, arguments.seed)
    print(f"{len(texts):,} documents, {len(ids):,} tokens", flush=True)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **special)).cuda()
    figures = train(model, ids, arguments.minutes, arguments.seed)
    figures.parameters = model.num_parameters()
    figures.device = torch.cuda.get_device_name()
    judged = tokenizer.backend_tokenizer.encode_batch(kept, add_special_tokens=False)
    held = np.concatenate([np.array([*one.ids, tokenizer.eos_token_id], dtype=np.int32) for one in judged])
    judge(model, held, sum(len(text.encode()) + 1 for text in kept), figures)
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    (arguments.output / "training.json").write_text(json.dumps(vars(figures), indent=1) + "\n")
    print(json.dumps(vars(figures)), flush=True)


if __name__ == "__main__":
    main()
