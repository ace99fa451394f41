"""`make paper`: the paper's tables in miniature, each with seeds and intervals, into paper/ as JSON, CSV, PNG and one page.

    python -m paper                    all of them
    python -m paper ablation rewards   some
    python -m paper --workers 1        one job at a time

Stopped and started again it goes on; what is finished, runs/paper keeps.
"""

import argparse
import os
import sys

from paper.jobs import costs
from paper.page import write_page
from paper.pool import do_all
from paper.table import write_table
from paper.tables import TABLES, everything


def main() -> int:
    """Does what is missing for the tables that are named, and writes them and the page."""
    parser = argparse.ArgumentParser(prog="make paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; none: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at once, each on a core of its own")
    arguments = parser.parse_args()
    names = arguments.tables or list(TABLES)
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        print(f"paper: there is no table {unknown[0]!r}; name some of {', '.join(TABLES)}", file=sys.stderr)
        return 2
    if arguments.workers < 1:
        print(f"paper: --workers is {arguments.workers}; give 1 or more", file=sys.stderr)
        return 2
    try:
        do_all(everything(names), arguments.workers)
    except (ValueError, RuntimeError) as error:
        print(f"paper: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    for name in names:
        write_table(TABLES[name].make(), costs(everything([name])))
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
