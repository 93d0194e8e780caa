"""From turns to a student, three wings in the order of the flow: teaching, training, comparison."""
