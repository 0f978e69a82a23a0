"""Slow, plain definitions with their source: what the library's fast code is held against."""
