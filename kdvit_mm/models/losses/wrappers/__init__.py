"""Losses around other losses."""
