"""How rows are dealt to splits: components, strategies, held-out references, contamination, mixture."""
