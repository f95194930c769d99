"""The `distillery` command: what its commands share; they stand in `commands`, a module each."""
