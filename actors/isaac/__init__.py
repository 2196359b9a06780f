"""The adapter to NVIDIA Isaac Sim: importable on any machine, startable on one with an RTX GPU and Isaac Sim."""
