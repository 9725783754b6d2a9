"""Losses on relations between samples or classes."""
