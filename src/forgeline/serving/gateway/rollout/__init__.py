"""A new version under live traffic: who is asked by it, whether it is worse, and how it becomes the one, or goes."""
