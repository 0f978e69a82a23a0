"""From a LLaMA-2 base model to a chat model, the Llama-2-Chat way."""

__version__ = "0.1.0"
