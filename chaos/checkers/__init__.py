"""One promise, one file: each decides from a recorded history alone whether it was kept.

A checker never accuses what is legal. Where a history does not show enough to be certain it stays silent.
"""
