"""A repository of its own for each term: made from a cache of its source, saved, resumed, published, put away."""
