"""Care for the data before a search: what `nasimb data inspect --html` looks for."""
