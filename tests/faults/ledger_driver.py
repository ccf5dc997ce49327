"""``vitray`` as a person calls it, but ranks keep a ledger in ``$VITRAY_TEST_LEDGER``.

New nodes are taken at once, unless ``$VITRAY_TEST_PATIENCE`` says that it is to take its own time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))


def main() -> None:
    import ledger
    import ray

    from vitray.cli import main as vitray_main
    from vitray.train import elastic, worker_group

    ray.cloudpickle.register_pickle_by_value(ledger)
    worker_group.serve = ledger.serving(Path(os.environ["VITRAY_TEST_LEDGER"]))
    if not os.environ.get("VITRAY_TEST_PATIENCE"):
        elastic._YOUNG_S = elastic._SETTLE_S = 1.0
    vitray_main()


if __name__ == "__main__":
    main()
