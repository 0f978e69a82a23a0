"""Training: DeepSpeed around a module, one exact update from many micro-batches, checkpoints, processes."""
