"""From what was tuned to an answered request: bundle, parity, engines, gateway, targets, smoke test."""
