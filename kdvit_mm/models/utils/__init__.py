"""Helpers of the algorithms."""
