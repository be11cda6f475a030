"""One outside request each, and at most a transaction or two: parse, decide elsewhere, answer."""
