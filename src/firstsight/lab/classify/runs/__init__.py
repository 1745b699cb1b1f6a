"""What the processes of a trial do, how many there are, and what they leave."""
