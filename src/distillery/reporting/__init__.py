"""What people look at: the page of a run, the model card, pictures and tables."""
