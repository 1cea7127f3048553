"""Grow a causal language model: wider or deeper, keeping its function where mathematics allows."""
