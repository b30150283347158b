"""The inference engine: a GGUF file in, text out, through tuned kernels."""
