"""git as the factory runs it: its environment, its calls, and what a URL may carry."""
