"""Reading a text with a trained model: readers that remember, write or only look."""
