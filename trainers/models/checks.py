"""What a base must be for a run. `plan` asks it of a model without weights, and a worker of what it loads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cluster.errors import ConfigError
from trainers.config import ModelConfig
from trainers.models.capabilities import most_positions, taken

BATCH, TOKENS = 2, 4  # of the texts that a model without weights is given
QUESTIONS = (Tensor.__contains__, Tensor.__bool__, Tensor.item)
OF_SHAPES = ("shape", "size", "dim")  # words in errors of torch that tensors without weights raise as others do
BOTH_WAYS = {"bert-generation"}  # decoders that are encoders unless their configuration says is_decoder
UNFIT = {  # model types that cannot be used for a task type, with the reason
    ("prophetnet", "SEQ_2_SEQ_LM"): "what its decoder says of a token depends on the length of what follows",
    ("prophetnet", "CAUSAL_LM"): "what it says of a token depends on the length of what follows",
    ("dpr", "LABEL_EMBEDDING"): "it gives one vector per text and none per token",
    ("canine", "LABEL_EMBEDDING"): "it cannot read texts of less than four characters",
    ("funnel", "LABEL_EMBEDDING"): "it cannot read texts of less than five tokens",
    ("fnet", "LABEL_EMBEDDING"): "it takes no attention mask, so that padding is read as text",
    ("git", "CAUSAL_LM"): "its answers depend on the texts beside one in a batch",
    ("lxmert", "LABEL_EMBEDDING"): "it asks for images",
    ("vilt", "LABEL_EMBEDDING"): "it asks for images",
    ("vits", "LABEL_EMBEDDING"): "it gives sounds",
    ("reformer", "CAUSAL_LM"): "it trains on texts of one length",
    ("reformer", "LABEL_EMBEDDING"): "it trains on texts of one length",
    ("xlnet", "CAUSAL_LM"): "every token sees those that follow",
    ("xlm", "CAUSAL_LM"): "it reads a mask in the place of the token that it predicts, and mostly what follows too",
    ("cpmant", "CAUSAL_LM"): "every token sees those that follow",
    ("cpmant", "LABEL_EMBEDDING"): "it puts tokens of its own before a text, and padding before those",
}


def check_task_type(name: str, task_type: str, architecture: Any) -> None:
    """Raises ConfigError if `model.task_type` does not fit the architecture."""
    kind, both_ways = architecture.model_type, reads_both_ways(architecture)
    if architecture.is_encoder_decoder:
        fitting = "SEQ_2_SEQ_LM"
    elif is_decoder(architecture) and task_type != "LABEL_EMBEDDING":
        fitting = "CAUSAL_LM"
    else:
        fitting = "LABEL_EMBEDDING"
    if reason := UNFIT.get((kind, task_type)):
        fix = "another model" if task_type == fitting else f"{fitting}, or another model"
        raise ConfigError(f"model.name: {name!r} (a {kind}) cannot be used ({reason}); use {fix}")
    if task_type != fitting:
        why = " in which every token sees those that follow" if task_type == "CAUSAL_LM" and both_ways else ""
        raise ConfigError(f"model.task_type: {task_type} does not fit {name!r} (a {kind}{why}); use {fitting}")


def is_decoder(architecture: Any) -> bool:
    """Whether a model of this architecture continues texts: in it no token sees those that follow."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    return architecture.model_type in CAUSAL and not (architecture.is_encoder_decoder or reads_both_ways(architecture))


def reads_both_ways(architecture: Any) -> bool:
    """Whether every token of a text sees those that follow."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return architecture.model_type in {*MASKED, *BOTH_WAYS} and not getattr(architecture, "is_decoder", False)


def not_asked_for(config: ModelConfig, architecture: Any) -> str | None:
    """A note if a decoder is used as an encoder because nobody said otherwise."""
    if "task_type" in config.model_fields_set or not is_decoder(architecture):
        return None
    return (
        f"model.task_type is not given, so {config.name!r} (a {architecture.model_type}, which continues texts) is "
        f"used as {config.task_type}: the mean of its last layer is compared with that of the label words. "
        "--set model.task_type=CAUSAL_LM has it answer with the words; "
        f"--set model.task_type={config.task_type} says that this is meant"
    )


def check_unquantised(name: str, architecture: Any) -> None:
    """Raises ConfigError if the weights are stored quantised: adapters are folded into whole weights, and those that
    are read in eight bits are made so here."""
    found = getattr(architecture, "quantization_config", None)
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        raise ConfigError(
            f"model.name: the weights of {name!r} are stored quantised ({getattr(method, 'value', method)}); name the "
            "model that they were made from (model.quantization: float8 reads that in eight bits)"
        )


def check_length(model: Any, max_length: int, key: str = "model.max_length") -> None:
    """Raises ConfigError if texts of `max_length` tokens are beyond the model's positions; `key` is where it stands."""
    positions = most_positions(model)
    if positions and max_length > positions:
        raise ConfigError(f"{key}: {max_length} is beyond the model's {positions} positions; use at most that")


def check_reads_texts(name: str, task_type: str, model: Any) -> None:
    """Raises ConfigError if the model, which has no weights, cannot be given texts alone: it asks for images, sounds or
    other inputs, or gives nothing per token.

    What depends on values cannot be followed without weights. Yes or no is guessed, see `Guess`; if a number is asked
    for, or devices or dtypes are mixed, what its class has decides.
    """
    ids = torch.ones(BATCH, TOKENS, dtype=torch.int64, device="meta")
    answers = {"decoder_input_ids": ids} if task_type == "SEQ_2_SEQ_LM" else {}
    key = "last_hidden_state" if task_type == "LABEL_EMBEDDING" else "logits"
    guess = Guess()
    try:
        with torch.no_grad(), guess:
            output = model.eval()(input_ids=ids, **answers, **taken(model, use_cache=False))
        found = getattr(output, key)
        if found.shape[:2] != ids.shape:
            raise ValueError(f"{key} has the shape {tuple(found.shape)} for {BATCH} texts of {TOKENS} tokens")
    except Exception as error:  # whatever its code raises, it would raise in a worker
        first_line = next(iter(str(error).strip().splitlines()), "")
        if inconclusive(error, guessed=guess.guessed):
            check_class(name, task_type, model)
            return
        fix = (
            "restore its config.json, or use a model of text"
            if isinstance(error, RuntimeError)
            else "use a model of text"
        )
        raise ConfigError(
            f"model.name: {name!r} (a {type(model).__name__}) cannot be given texts alone ({type(error).__name__}: "
            f"{first_line}); {fix}"
        ) from None


def inconclusive(error: Exception, *, guessed: bool) -> bool:
    """Whether what a model without weights raises says nothing of one that has them.

    Of torch's RuntimeErrors those of shapes say something, and those of values, devices and dtypes do not, in which
    torch is stricter without weights. Other errors say something unless there was a guess before.
    """
    if not isinstance(error, RuntimeError):
        return guessed
    return isinstance(error, NotImplementedError) or not any(word in str(error) for word in OF_SHAPES)


class Guess(TorchFunctionMode):
    """Within, questions about values of tensors that have none are answered: a text holds no certain token, as padding,
    and a condition holds, as that nothing is masked. `guessed` says whether there were any."""

    guessed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in QUESTIONS and args[0].is_meta and (func is Tensor.__contains__ or args[0].dtype is torch.bool):
            self.guessed = True
            return func is not Tensor.__contains__
        return func(*args, **(kwargs or {}))


def check_class(name: str, task_type: str, model: Any) -> None:
    """`check_reads_texts` of a model that cannot be followed without weights, by what its class has."""
    kind = type(model).__name__
    try:
        model.get_input_embeddings()
    except NotImplementedError:
        raise ConfigError(f"model.name: {name!r} (a {kind}) has no embeddings of tokens; use a model of text") from None
    if task_type == "LABEL_EMBEDDING" and model.can_generate():
        raise ConfigError(
            f"model.name: {name!r} (a {kind}) gives probabilities of tokens and no embeddings; use CAUSAL_LM, or a "
            "model of text"
        )


def check_finite(base: str, name: str, tensor: Tensor) -> None:
    """Raises ConfigError if the parameter `name` of the model `base` holds NaN or an infinity, which would make every
    answer NaN. A buffer may be infinite, as masks are."""
    values = tensor.detach()
    if not values.is_floating_point() or values.itemsize == 1 or not values.numel():  # float8 has no order
        return
    ends = torch.stack([*values.aminmax()])  # NaN if there is one; allocates nothing of the tensor's size
    parameter = isinstance(tensor, nn.Parameter)
    if ends.isfinite().all() if parameter else not ends.isnan().any():
        return
    wrong = values.isfinite().logical_not() if parameter else values.isnan()
    place, count = wrong.nonzero()[0].tolist(), int(wrong.sum())
    more = f" and {count - 1} more values" if count > 1 else ""
    raise ConfigError(
        f"model.name: the checkpoint of {base!r} holds {values[tuple(place)].item()} in {name} at {place}{more}; "
        "restore its files, or train it again"
    )


def checkpoint_activations(model: Any) -> nn.Module:
    """The model, which from now on computes activations twice. Raises ConfigError if its class cannot."""
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (AttributeError, ValueError):
        raise ConfigError(
            f"train.gradient_checkpointing: {type(model).__name__} has none; set it to false, and use a smaller "
            "train.batch_size or more train.gradient_accumulation_steps instead"
        ) from None
    found: nn.Module = model
    return found
