"""Shards of stores at URLs: fetched when asked for into a bounded cache, verified, and memory-mapped from there."""
