"""What happens in a run, told to others: when a label begins and ends, by rules; and clips of it."""
