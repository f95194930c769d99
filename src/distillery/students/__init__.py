"""What a student optimises."""
