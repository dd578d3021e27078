"""Kill the receiver under load, as often as one likes: nothing answered may be lost.

    python -m benchmarks.kill_receiver [--kills 500] [--shipped]

SIGKILL to all its processes at random moments, some of them during a start. Ends at the first
instance that is lost, not whole or in two revisions; else says what was seen. A killed process does
not lose what the kernel holds: `tests/integration/test_receiver_sync_order.py` is about that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.support.kill_receiver import kill_test


def main() -> None:
    """Kill, and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shipped", action="store_true", help="not forked: 1.5 s for each start")
    parser.add_argument("--dir", type=Path, help="on the disk to use")
    parser.add_argument("--durability", help="DURABILITY of the receiver")
    options = parser.parse_args()
    settings = {"DURABILITY": options.durability} if options.durability else {}
    with kill_test(
        seed=options.seed, is_shipped=options.shipped, directory=options.dir, **settings
    ) as test:
        print(test.run(options.kills))


if __name__ == "__main__":
    main()
