"""Who trains a first task that several trials have in common. Kept apart, so that its actor imports nothing heavy."""

import asyncio
from collections.abc import Mapping


class FirstTasks:
    """Actor: which trial trains a first task that several have in common. The others wait, and begin as its forks."""

    def __init__(self, trained: Mapping[str, str]) -> None:
        """`trained` are the runs that have committed such a task, by its key."""
        self.owners, self.trained = dict(trained), set(trained.values())
        self.changed = asyncio.Condition()

    async def claim(self, key: str, run: str) -> str:
        """The run to take the task from: `run` itself if it is the one to train it."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.owners.setdefault(key, run) in {run, *self.trained})
            return self.owners[key]

    async def settle(self, run: str, trained: bool) -> None:
        """The run has committed its first task, or has ended without."""
        async with self.changed:
            if trained:
                self.trained.add(run)
            elif run not in self.trained:
                self.owners = {key: owner for key, owner in self.owners.items() if owner != run}
            self.changed.notify_all()
