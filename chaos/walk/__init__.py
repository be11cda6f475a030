"""An exhaustive walk: every interleaving of small worlds, with every fate of every write, in the real code."""

from chaos.walk.search import Found, Walked, walk
from chaos.walk.table import walk_all
from chaos.walk.worlds import WORLDS, SmallWorld

__all__ = ["WORLDS", "Found", "SmallWorld", "Walked", "walk", "walk_all"]
