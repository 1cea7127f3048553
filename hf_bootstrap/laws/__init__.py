"""Fit scaling laws to points and answer questions with them; loads no torch."""
