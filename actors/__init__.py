"""Scenes, renderers, the servo environment, experts, classical controllers and the collectors."""
