"""All objectives, by the name that a task's configuration has as `objective`."""

from trainers.objectives.base import Objective
from trainers.objectives.classification import Classification
from trainers.objectives.generation import Generation

OBJECTIVES: dict[str, Objective] = {"classification": Classification(), "generation": Generation()}
