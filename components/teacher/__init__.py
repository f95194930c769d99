"""Steps that read the teacher."""
