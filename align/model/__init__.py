"""LLaMA-2: configuration, transformer, heads, weights in and out, adapters, and the plain sampler."""
