"""Which precision every node gets: ranges, repairs, sensitivity, the search, and the rules that bound it."""
