"""One module per pipeline step: typed config and paths in, files and metrics out."""
