"""``vitray`` as a person calls it, but for a ledger: ranks write down who took which samples in which step.

The ranks' serving function is sent to them by value, as all of ``__main__`` is: nothing in the product knows of it.
New nodes are taken at once, so that a test need not wait.
"""

from __future__ import annotations

import os
from typing import Any

LEDGER = os.environ.get("VITRAY_TEST_LEDGER", "")


def serve_with_ledger(given: dict[str, Any]) -> None:
    import json
    import os
    from pathlib import Path

    import vitray.train.loop as loop
    import vitray.train.serve as serving

    train_step = loop.train_step

    def written_step(model: Any, state: Any, batch: Any, feed: Any) -> Any:
        done = train_step(model, state, batch, feed)
        ranks = feed.ranks
        row = (batch.step, ranks.rank, ranks.world_size, batch.sample_id[batch.weight > 0].tolist())
        # Of one file a process: a rank that is killed leaves a line unfinished at most.
        with (Path(LEDGER) / f"{ranks.world_size}-{ranks.rank}-{os.getpid()}").open("a") as f:
            print(json.dumps(row), file=f)
        return done

    loop.train_step = written_step
    serving.serve(given)


def main() -> None:
    from vitray.cli import main as vitray_main
    from vitray.train import elastic, worker_group

    worker_group.serve = serve_with_ledger
    elastic._YOUNG_S = elastic._SETTLE_S = 1.0
    vitray_main()


if __name__ == "__main__":
    main()
