"""What a writing head keeps of its classes beside their rows."""
