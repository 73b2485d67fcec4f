"""How many replicas there are: one policy for every target, and what it would do to given traffic."""
