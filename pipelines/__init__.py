"""The pipelines, their compiler and local runner, and the command line."""
