"""A renderer in a process of its own: server, client, and the memory that pixels travel through.

Everything here imports without torch, ray or mlflow, so that it installs into Isaac Sim's own Python.
"""
