"""ZenML steps: typed, short; each calls the library and hands on small values, files by path."""
