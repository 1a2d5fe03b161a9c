"""A stage on real processes: an error of one rank is an error of all."""

import json
from pathlib import Path

from tests.support.launching import launch


def test_what_rank_0_cannot_read_fails_on_all_ranks_and_leaves_them_fit_for_the_next_order(tmp_path: Path) -> None:
    """Were it to fail alone, the others would wait for it in a broadcast, and it for them while it tidies up."""
    launch(tmp_path, 2, "tests.support.stage_pair")
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {"error": "c/t/away is out of reach", "training": False, "tasks": 1}
