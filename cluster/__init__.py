"""The program: the topology in one function, the driver loop, supervision and the command line."""
