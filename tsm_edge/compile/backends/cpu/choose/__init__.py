"""What the rules choose by the card's numbers: fusion, algorithm, tiles."""
