"""The wire: one folder per version of the messages."""
