"""`make bench`: prints what things cost on this machine. Compare rows of one run, not runs of two days."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from chaos.load import dispatch, stores

console = Console()


def main() -> None:
    table = Table("store", "writers", "conditional writes/s", title="Stores")
    for rate in asyncio.run(stores.measure()):
        table.add_row(rate.what, str(rate.writers), f"{rate.per_s:,.0f}")
    console.print(table)
    table = Table("what", "times", "p50 ms", "p99 ms", "max ms", title="Dispatch, lease TTL 10 s, SQLite")
    for spread in dispatch.measure():
        times = (f"{seconds * 1e3:,.1f}" for seconds in (spread.p50, spread.p99, spread.max))
        table.add_row(spread.what, str(spread.samples), *times)
    console.print(table)


if __name__ == "__main__":
    main()
