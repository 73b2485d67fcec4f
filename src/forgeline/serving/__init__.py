"""From an adapter to an answered request: bundle, parity, engines, gateway, targets, smoke test."""
