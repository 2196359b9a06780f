"""Version 1 and what is compatible with it."""
