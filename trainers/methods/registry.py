"""Which methods there are: from a configuration's `adapter` section to the method it names."""

import torch
from torch import nn

from cluster.errors import ConfigError
from trainers.config import ModelConfig, TrainConfig
from trainers.damage import check_has_weights
from trainers.lowrank_config import AdaloraConfig, EllaConfig, IncrementalLoraConfig, InfloraConfig, OloraConfig
from trainers.method_config import AdapterConfig, EwcConfig, FullConfig, LoraConfig, MethodConfig, OsftConfig
from trainers.methods.base import Method
from trainers.methods.patterns import check_regexes_end
from trainers.methods.targets import check_patterns, linear_layers
from trainers.models.checks import checkpoint_activations
from trainers.models.loading import check_model, resolve_name


def method_for(model: nn.Module, config: MethodConfig, dtype: torch.dtype) -> Method:  # noqa: PLR0911  # one each
    """The method that `adapter.method` names, over `model`, which it does not change yet.

    Args:
        model: the frozen model, or one without weights (on the `meta` device) to check the configuration with.
        config: the `adapter` section.
        dtype: of the target layers' outputs.

    Raises:
        ConfigError: `adapter.target_modules` matches no layer, or ranks contradict each other.
    """
    match config:
        case AdapterConfig():
            from trainers.methods.oa.method import OaMethod

            return OaMethod(model, config, dtype)
        case LoraConfig():
            from trainers.methods.lora import LoraMethod

            return LoraMethod(model, config, dtype)
        case IncrementalLoraConfig():
            from trainers.methods.lowrank.method import LowRankMethod

            return LowRankMethod(model, config, dtype)
        case OloraConfig():
            from trainers.methods.lowrank.olora import OloraMethod

            return OloraMethod(model, config, dtype)
        case InfloraConfig():
            from trainers.methods.lowrank.inflora import InfloraMethod

            return InfloraMethod(model, config, dtype)
        case EllaConfig():
            from trainers.methods.lowrank.ella import EllaMethod

            return EllaMethod(model, config, dtype)
        case AdaloraConfig():
            from trainers.methods.lowrank.adalora import AdaloraMethod

            return AdaloraMethod(model, config, dtype)
        case FullConfig():
            from trainers.methods.weights.full import FullMethod

            return FullMethod(model, config)
        case EwcConfig():
            from trainers.methods.weights.ewc import EwcMethod

            return EwcMethod(model, config)
        case OsftConfig():
            from trainers.methods.weights.osft import OsftMethod

            return OsftMethod(model, config, dtype)
    raise ConfigError(f"adapter.method: {config.method!r} has no implementation; add it to trainers.methods.registry")


def check_method(
    config: ModelConfig, adapter: MethodConfig, train: TrainConfig | None = None
) -> tuple[nn.Module, Method]:
    """The model without its weights, and the method over it.

    Raises:
        ConfigError: as `check_model` and `method_for`, the method needs a package that is not installed, one of its
            patterns matches no adapted layer or does not end, or the model's class has no gradient checkpointing and is
            to use it.
    """
    adapter.check_installed()
    model = check_model(config)
    check_has_weights(config.name, resolve_name(config.name))
    if train is not None and train.gradient_checkpointing:
        checkpoint_activations(model)
    check_regexes_end(adapter, linear_layers(model))
    method = method_for(model, adapter, getattr(torch, config.dtype))
    for key, patterns in adapter.patterns.items():
        check_patterns(key, patterns, method.modules)
    return model, method
