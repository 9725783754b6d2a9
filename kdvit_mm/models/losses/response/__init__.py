"""Losses on class scores and boxes."""
