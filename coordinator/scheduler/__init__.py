"""Pure: which factory could run which job, how well, and in what order. The same snapshot gives the same plan."""
