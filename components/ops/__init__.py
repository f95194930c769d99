"""Steps that keep the books: plan and register."""
