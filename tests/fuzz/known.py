"""The fuzzers there are, by name."""

from tests.fuzz import stored, trained
from tests.fuzz.harness import Fuzzer

FUZZERS: dict[str, Fuzzer] = {
    "adapters": trained.adapters,
    "checkpoints": trained.checkpoints,
    "log bodies": stored.log_bodies,
    "manifests": stored.manifests,
}
