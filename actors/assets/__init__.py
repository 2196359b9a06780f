"""Imported models and pictures: reading, checking, decimating, and the cache they are kept in."""
