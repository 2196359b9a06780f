"""The policy network (torch): matching, geometry, heads, their losses, and weights as numpy arrays."""
