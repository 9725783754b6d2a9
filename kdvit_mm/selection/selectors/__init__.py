"""Selectors, which choose the pyramid levels of each image."""
