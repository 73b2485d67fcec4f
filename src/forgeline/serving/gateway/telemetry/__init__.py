"""What is told of each request: metrics for Prometheus, traces for OpenTelemetry, a line of log."""
