"""The end of a token: choose the next one from the logits, on the device, and look its embedding up.

Greedy decoding is one kernel. Sampling is seven small ones whose settings lie in device memory, so that one captured
graph serves every temperature, top-k, top-p and seed.
"""
