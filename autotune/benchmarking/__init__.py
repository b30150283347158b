"""Benchmarks of a whole model on a device: tokens per second, bandwidth, and where a token's time goes."""
