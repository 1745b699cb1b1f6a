"""What follows the steps of an optimizer: what is pending, what grows with it, and what is watched."""
