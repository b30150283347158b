"""How fast a whole model runs on a device: tokens per second, bandwidth, and where a token's time goes."""
