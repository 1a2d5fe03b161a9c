"""The fuzzers there are, by name."""

from tests.fuzz import given, stored, trained
from tests.fuzz.harness import Fuzzer

FUZZERS: dict[str, Fuzzer] = {
    "bases": given.bases,
    "configurations": given.configurations,
    "data": given.data,
    "places": given.places,
    "adapters": trained.adapters,
    "checkpoints": trained.checkpoints,
    "log bodies": stored.log_bodies,
    "manifests": stored.manifests,
}
