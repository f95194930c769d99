"""What a student is worth, beside its teacher."""
