"""JSONL records -> token rows and loss masks -> batches."""
