"""What is chosen by the card's numbers."""
