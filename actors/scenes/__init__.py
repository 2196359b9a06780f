"""What scenes are made of and how they are drawn: shapes, looks, clutter, cameras, sensors, and the frozen suite."""
